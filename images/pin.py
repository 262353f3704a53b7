"""Prints the versions for images/constraints.txt: what this environment has of kctl, its extras and all they need.

Run it as `.venv/bin/python images/pin.py > images/constraints.txt` after the tests passed with newer packages and after
`.venv/bin/pip install '.[flash]'`, which development does without. Names and versions only: no addresses and no paths.
"""

from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BUILD_BACKEND = "hatchling==1.33.0"
"""Builds our wheel in the image; pip keeps it out of the environment that is asked here."""


def closure(name: str, extras: set[str]) -> dict[str, str]:
    """Canonical names -> versions of the distribution and of everything that it needs on this platform."""
    found: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    open_ends = [(name, extra) for extra in {"", *extras}]
    while open_ends:
        current, extra = open_ends.pop()
        key = canonicalize_name(current)
        if (key, extra) in asked:
            continue
        asked.add((key, extra))
        found[key] = distribution(key).version
        for requirement in map(Requirement, distribution(key).requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                open_ends += [(requirement.name, wanted) for wanted in {"", *requirement.extras}]
    return found


def main() -> None:
    """Print the pins, sorted."""
    pins = closure("kctl", {"trainer", "wandb", "tensorboard", "flash"})
    pins.pop("kctl")
    print("# Made by images/pin.py from an environment that passed the tests: raise versions there, not here.")
    print("\n".join(sorted([f"{name}=={version}" for name, version in pins.items()] + [BUILD_BACKEND])))


if __name__ == "__main__":
    main()
