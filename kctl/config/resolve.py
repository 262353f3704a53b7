"""From a word on a command line to a file: a path, else ./configs, else $KCTL_CONFIGS, else the shipped configs.

`lora_di3`, `lora-di3` and `lora_di3.yaml` are the same name. Also follows `extends`.
"""

import difflib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kctl.config.yaml_reader import read_yaml
from kctl.errors import NotFound, UsageError

ENV_CONFIGS = "KCTL_CONFIGS"
"""A folder laid out as configs/ is."""

MAX_PARENTS = 10
"""Longest chain of `extends`: a longer one is not read by anybody."""


MAX_NAMES = 10
"""Most names in a message."""


def shipped_configs() -> Path:
    """The configs of the wheel, or of the checkout where kctl is installed editable."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent / "configs"


def config_folders() -> list[Path]:
    """Where names are looked up, first hit wins."""
    named = os.environ.get(ENV_CONFIGS)
    return [Path("configs"), *([Path(named)] if named else []), shipped_configs()]


def find_config(argument: str) -> Path:
    """The file that `argument` means; NotFound names the nearest configs."""
    try:
        return _find(argument, config_folders(), "config")
    except NotFound:
        _is_file(Path(argument))  # says what it is, if it is anything but a file
        raise


def configs_in(argument: str) -> list[str]:
    """The configs that `argument` means: the YAML files of a folder, by name, or what it names itself.

    A config's name comes before a folder that is called the same. NotFound where the folder has none.
    """
    folder = Path(argument)
    if not folder.is_dir() or any(_normal(path.stem) == _normal(argument) for path in _listed(config_folders())):
        return [argument]
    found = sorted(str(path) for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())
    if not found:
        raise NotFound(f"{argument}: no config in this folder; a config is a file NAME.yaml in it")
    return found


def find_profile(name: str, config: Path | None) -> Path:
    """The cluster profile `name`: clusters/ beside the config first, then where configs are looked up.

    A shipped config says nothing of a cluster: a person's own profile of that name wins over the shipped one.
    """
    own = config is not None and config.parent.resolve() != shipped_configs().resolve()
    beside = [config.parent] if config is not None and own else []
    return _find(name, [folder / "clusters" for folder in (*beside, *config_folders())], "cluster profile")


@dataclass(frozen=True)
class Layers:
    """A file laid over the files that it extends: what came of it, and what each of them wrote, the file first."""

    value: dict[str, Any]
    files: list[tuple[Path, dict[str, Any]]]

    @property
    def own(self) -> dict[str, Any]:
        """What the file itself writes."""
        return self.files[0][1]

    def where(self, place: tuple[str, ...]) -> str:
        """The file, and the one that it has the field at `place` from."""
        path = self.files[0][0]
        writer = next((file for file, value in self.files if _writes(value, place)), None)
        if writer == path or len(self.files) == 1:
            return str(path)
        return f"{path} (extends {(writer or self.files[1][0]).name})"


def _writes(value: Any, place: tuple[str, ...]) -> bool:
    for key in place:
        if not isinstance(value, dict):
            break  # a list or a scalar was written as a whole
        if key not in value:
            return False
        value = value[key]
    return True


def read_with_parents(path: Path) -> dict[str, Any]:
    """The file's map, laid over the files that it extends. Maps merge key by key, everything else replaces."""
    return read_layers(path).value


def read_layers(path: Path, needs: str = "a run config needs name and train, or extends; see kctl schema") -> Layers:
    """As read_with_parents, with what each file wrote; `needs` is said of a file that is no map."""
    return _read(path, [], needs)


def _read(path: Path, chain: list[Path], needs: str) -> Layers:
    here = [*chain, path.resolve()]
    names = " -> ".join(item.name for item in here)
    if path.resolve() in chain:
        raise UsageError(f"{chain[0]}: extends goes in a circle: {names}; remove one of them")
    if len(here) > MAX_PARENTS:
        raise UsageError(f"{here[0]}: extends is longer than {MAX_PARENTS} files: {names}")
    value = read_yaml(path)
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise UsageError(f"{path}: must be a map of fields, got {found}; {needs}")
    parent = value.pop("extends", None)
    if parent is None:
        return Layers(dict(value), [(path, value)])
    if not isinstance(parent, str):
        raise UsageError(f"{path}: extends: must be the name of one config, got {parent!r}")
    nested = str(path.parent / parent) if "/" in parent else parent  # a path is relative to the file it stands in
    try:
        base = _find(nested, [path.parent, *_relatives(path)], "config")
    except (NotFound, UsageError) as error:
        raise UsageError(f"{path}: extends: {error}") from None
    below = _read(base, here, needs)
    return Layers(merged(below.value, value), [(path, value), *below.files])


def _relatives(path: Path) -> list[Path]:
    # A profile extends profiles, a config configs.
    inner = "clusters" if path.parent.name == "clusters" else ""
    return [folder / inner for folder in config_folders()]


def merged(below: Any, above: Any) -> Any:
    """`above` laid over `below`: maps key by key, everything else replaces."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: merged(below.get(key), given) for key, given in above.items()}}


def _find(argument: str, folders: list[Path], what: str) -> Path:
    if not argument or "\x00" in argument:
        raise UsageError(f"{argument!r} is no name of a {what}")
    nested = "/" in argument or os.sep in argument
    if nested or argument.endswith((".yaml", ".yml")):
        path = Path(argument)
        if _is_file(path):
            return path
        if nested:
            raise NotFound(f"{argument}: no such file; give a path, or a name: {_names(_listed(folders))}")
    wanted = _normal(argument.removesuffix(".yaml").removesuffix(".yml"))
    listed = list(_listed(folders))
    for path in listed:
        if _normal(path.stem) == wanted:
            return path
    near = difflib.get_close_matches(wanted, {_normal(path.stem): None for path in listed}, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {_names(iter(listed))}"
    raise NotFound(f"no {what} {argument!r}; {hint}")


def _is_file(path: Path) -> bool:
    """False where there is nothing; UsageError where there is something that is not a file one can read."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: with a surrogate, no file has it
        return False
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return False
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path}: is a directory: name one file in it")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: is no regular file: save it as one first")
    return True


def _normal(stem: str) -> str:
    return stem.replace("-", "_").lower()


def _listed(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.glob("*.yaml") if path.is_file())


def _names(paths: Iterator[Path]) -> str:
    stems = list(dict.fromkeys(path.stem for path in paths))
    more = f" and {len(stems) - MAX_NAMES} more" if len(stems) > MAX_NAMES else ""
    return (", ".join(stems[:MAX_NAMES]) or "none") + more
