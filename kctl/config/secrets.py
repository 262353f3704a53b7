"""What must not stand in an environment map: literals that look like secrets, names that others set.

Used on configs, on profiles and on what is rendered. Messages never repeat the value.
"""

import re

_TOKENS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[\w-]{16,}"
    r"|(AKIA|ASIA)[A-Z0-9]{16}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/@\s:]+:[^/@\s]+@|local-[0-9a-f]{40}"
)
"""Well-known credentials: model hubs and APIs, code hosts, clouds, chats, JWT, PEM, URLs with a password."""

_HEX_KEY = re.compile(r"[0-9a-f]{40}")
"""A wandb key; a commit looks the same, so names that say commit, sha, revision or digest may hold one."""

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY.*", re.DOTALL)
_ASSIGNED = re.compile(
    r"(\b\w*(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|AUTHORIZATION)[\"']?\s*[=:]\s*[\"']?(?:Bearer |Basic )?)"
    r"(?![\"'\s])[^\s\"',;]{8,}",
    re.IGNORECASE,
)
"""NAME=VALUE or `NAME: VALUE` in a line of text."""

_HASH_NAMES = re.compile(r"COMMIT|SHA|REVISION|DIGEST|HASH")
_SECRET_NAMES = re.compile(r"(^|_)(API)?(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_|$)")
_PASSWORD_NAMES = re.compile(r"(^|_)(PASSWORD|PASSWD|PASSPHRASE)(_|$)")
_OPAQUE = re.compile(r"[A-Za-z0-9+_-][A-Za-z0-9+/=_.-]{15,}")

_RESERVED = re.compile(
    r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_.*|PYTHONUNBUFFERED"
    r"|MASTER_.*|PET_.*|TORCHELASTIC_.*|TRAINER_.*"
)
"""Set by the operator, by torchrun or by kctl: a value of yours would be overridden, or break the run."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def token_in(text: str) -> bool:
    """True where `text` holds a well-known kind of credential."""
    return bool(_TOKENS.search(text) or _HEX_KEY.fullmatch(text))


def redacted(text: str) -> str:
    """`text` without what looks like a credential: for words of others, such as events and logs."""
    whole = _PRIVATE_KEY.sub("[secret]", text)
    return _TOKENS.sub("[secret]", _ASSIGNED.sub(r"\1[secret]", whole))


def secret_problem(name: str, value: str) -> str | None:
    """Why `value` must not stand in a file under `name`, or None."""
    upper = name.upper()
    found = _TOKENS.search(value)
    found = found or (_HEX_KEY.fullmatch(value) if not _HASH_NAMES.search(upper) else None)
    found = found or (_OPAQUE.fullmatch(value) if _SECRET_NAMES.search(upper) else None)
    if found or (value and _PASSWORD_NAMES.search(upper)):
        return f"{name} looks like a secret; use {{secret: NAME, key: KEY}} of a Secret in the namespace"
    return None


def name_problem(name: str) -> str | None:
    """Why `name` cannot be an environment variable of a run, or None."""
    if _TOKENS.search(name) or not _NAME.fullmatch(name):
        return f"{_before_value(name)} is no name of a variable: use letters, digits and _, not starting with a digit"
    if _RESERVED.fullmatch(name):
        return f"{name} is set by the operator, torchrun or kctl: remove it"
    return None


def _before_value(name: str) -> str:
    # NAME=VALUE and VALUE are written where a name belongs: what may be a value is not repeated.
    plain = re.split(r"[=:\s]", name, maxsplit=1)[0]
    if _TOKENS.search(plain) or _HEX_KEY.fullmatch(plain):
        return "one of its keys"
    return f"{plain!r}" if plain == name else f"what begins with {plain!r}"
