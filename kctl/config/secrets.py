"""What must not stand in an environment map: literals that look like secrets, names that others set.

Used on configs, on profiles and on what is rendered. Messages never repeat the value.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from kctl.errors import UsageError
from trainer.schema.redaction import found_in, known_in, may_name_password, names_credential, names_password

_HEX_KEY = re.compile(r"[0-9a-f]{40}")
"""A wandb key; a commit looks the same, so names that say commit, sha, revision or digest may hold one."""

_HASH_NAMES = re.compile(r"COMMIT|SHA|REVISION|DIGEST|HASH")
_OPAQUE = re.compile(r"[A-Za-z0-9+_-][A-Za-z0-9+/=_.-]{15,}")
_FILE = r"[/~.]\S*"
_NO_PASSWORD = re.compile(rf"(?i:yes|no|on|off|auto|true|false|none)|\d{{1,4}}(\.\d+)?|{_FILE}|\$\(\w+\)")
"""A switch, a number of passes, a file or folder, another variable."""
_FILE_NAMES = re.compile(r"_(FILE|PATH|DIR)$", re.IGNORECASE)

_RESERVED = re.compile(
    r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_.*|PYTHONUNBUFFERED"
    r"|MASTER_.*|PET_.*|TORCHELASTIC_.*|TRAINER_.*"
)
"""Set by the operator, by torchrun or by kctl: a value of yours would be overridden, or break the run."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def token_in(text: str) -> bool:
    """True where `text` holds a well-known kind of credential."""
    return known_in(text) or bool(_HEX_KEY.fullmatch(text))


def secret_problem(name: str, value: str) -> str | None:
    """Why `value` must not stand in a file under `name`, or None."""
    upper = name.upper()
    found: object = found_in(value)
    found = found or (_HEX_KEY.fullmatch(value) if not _HASH_NAMES.search(upper) else None)
    found = found or (_OPAQUE.fullmatch(value) if names_credential(name) else None)
    if found or (value and _is_password(name, value)):
        return f"{name} looks like a secret; use {{secret: NAME, key: KEY}} of a Secret in the namespace"
    return None


def _is_password(name: str, value: str) -> bool:
    if names_password(name):
        return not (_FILE_NAMES.search(name) and re.fullmatch(_FILE, value))
    return may_name_password(name) and not _NO_PASSWORD.fullmatch(value)


def refuse_secrets(value: Any, where: Callable[[tuple[str, ...]], str]) -> None:
    """UsageError that names the first field of a file's `value` with a credential in its text or in a key."""
    for place, text in _texts(value, ()):
        # In a pod's patch a command line may hold what only its option's name tells.
        if found_in(text) if "pod_patch" in place else known_in(text):
            keys = [key for key in place if not token_in(key)]
            raise UsageError(
                f"{where(place)}: {'.'.join(keys)}: holds what looks like a secret: take it out of the file; "
                "to give one to the pods, use {secret: NAME, key: KEY} below env"
            )


def _texts(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield (*place, key), key
            yield from _texts(inner, (*place, key))
    elif isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            yield place, " ".join(value)  # --token VALUE
        for item in value:
            yield from _texts(item, place)


def name_problem(name: str) -> str | None:
    """Why `name` cannot be an environment variable of a run, or None."""
    if known_in(name) or not _NAME.fullmatch(name):
        return f"{_before_value(name)} is no name of a variable: use letters, digits and _, not starting with a digit"
    if _RESERVED.fullmatch(name):
        return f"{name} is set by the operator, torchrun or kctl: remove it"
    return None


def _before_value(name: str) -> str:
    # NAME=VALUE and VALUE are written where a name belongs: what may be a value is not repeated.
    plain = re.split(r"[=:\s]", name, maxsplit=1)[0]
    if token_in(plain):
        return "one of its keys"
    return f"{plain!r}" if plain == name else f"what begins with {plain!r}"
