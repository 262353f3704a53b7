"""A first run config: a few blanks, each filled by --set, by a person or by its default; written once.

Every answer is checked when it is given, as a field of a whole config: what others still lack is filled in meanwhile.
"""

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kctl import console
from kctl.config.overrides import apply_set
from kctl.config.resolve import find_profile, merged, shipped_configs
from kctl.config.run_config import RunConfig
from kctl.config.secrets import refuse_secrets
from kctl.errors import KctlError, UsageError
from trainer.errors import ConfigError
from trainer.schema.loading import validated

Value = dict[str, Any]
_FORMATS = {".json": "chameleons", ".jsonl": "messages"}


@dataclass(frozen=True)
class Blank:
    """One field: what is asked, and the answer of who only presses return; None: there must be one."""

    path: str
    text: str
    default: Callable[[Value], str | None]
    quoted: bool = True
    """Text as it is; else YAML."""


@dataclass(frozen=True)
class Draft:
    """A config that is complete and right, and not written yet."""

    name: str
    value: Value


BLANKS = (
    Blank("train.model.path", "base model, its folder below the models volume", lambda value: None),
    Blank("train.data.path", "training file, below the data volume", lambda value: None),
    Blank("train.data.format", "its format (chameleons, messages, prompt_completion)", lambda value: _format(value)),
    Blank("train.lora.rank", "rank of the adapters", lambda value: "32", quoted=False),
    Blank("train.optim.lr", "learning rate", lambda value: "2.0e-4", quoted=False),
    Blank("cluster.gpus_per_node", "GPUs (0: on CPUs)", lambda value: "8", quoted=False),
)
_MEANWHILE: Value = {
    "name": "x",
    "train": {
        "model": {"path": "x"},
        "data": {"path": "x", "format": "messages"},
        "lora": {"rank": 1},
        "optim": {"lr": 1e-4},
    },
}
"""What a config lacks until it is answered."""


def answered(name: str | None, sets: list[str], to: Path, asks: bool) -> Draft:
    """Every blank filled. UsageError names what is missing where nobody can be asked, or a file that is there."""
    value: Value = {"name": "", "train": {}}
    for assignment in sets:
        apply_set(RunConfig, value, assignment)
    if name is None:
        if not asks:
            raise UsageError(
                "there is no terminal to ask at: write kctl init NAME --set train.model.path=... and so on"
            )
        name = _asked("name of the config", "my-run", lambda text: _checked({**value, "name": _prefix(text)}))
    value["name"] = _prefix(name)
    _checked(value)
    refuse_existing(config_path(name, to))
    blanks = [blank for blank in BLANKS if not _given(value, blank.path)]
    missing = [one.path for one in blanks if one.default(value) is None]
    if missing and not asks:
        flags = " ".join(f"--set {path}=..." for path in missing)
        raise UsageError(f"there is no terminal to ask at: add {flags}")
    for blank in blanks:
        _answer(value, blank, asks)
    if value.get("cluster", {}).get("gpus_per_node") == 0:
        value["cluster"].setdefault("processes_per_node", 1)
    validated(RunConfig, value, "kctl init")
    refuse_secrets(value, lambda place: "kctl init")
    return Draft(name, value)


def _answer(value: Value, blank: Blank, asks: bool) -> None:
    def put(text: str) -> None:
        tried = merged(value, {})
        apply_set(RunConfig, tried, f"{blank.path}={json.dumps(text) if blank.quoted else text}")
        _checked(tried)
        value.update(tried)

    default = blank.default(value)
    if asks:
        _asked(blank.text, default, put)
    else:
        put(str(default))


def _asked(text: str, default: str | None, check: Callable[[str], None]) -> str:
    """The first answer that `check` takes; a wrong one is said and asked for again. UsageError where input ends."""
    while True:
        print(f"{text}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
        typed = sys.stdin.readline()
        if not typed:
            raise UsageError("nothing was written: there was no answer")
        answer = typed.strip() or default or ""
        try:
            check(answer)
            return answer
        except (UsageError, ConfigError) as error:
            console.error(str(error))


def _checked(value: Value) -> None:
    """ConfigError for what is wrong so far."""
    whole = merged(_MEANWHILE, value)
    if "hub" in value["train"].get("model", {}):
        whole["train"]["model"].pop("path")
    if value["train"].get("method") == "full":
        whole["train"].pop("lora")
    if whole.get("cluster", {}).get("gpus_per_node") == 0:
        whole["cluster"] = {"processes_per_node": 1, **whole["cluster"]}
    validated(RunConfig, whole, "kctl init")
    refuse_secrets(whole, lambda place: "kctl init")


def _given(value: Value, path: str) -> bool:
    """True where the blank is filled, or another field has made it idle."""
    train = value["train"]
    if (path == "train.model.path" and "hub" in train.get("model", {})) or (
        path == "train.lora.rank" and train.get("method") == "full"
    ):
        return True
    part: Any = value
    for key in path.split("."):
        if not isinstance(part, dict) or key not in part:
            return False
        part = part[key]
    return True


def _format(value: Value) -> str:
    return _FORMATS.get(Path(str(value["train"].get("data", {}).get("path", ""))).suffix, "messages")


def _prefix(name: str) -> str:
    return name.replace("_", "-").lower()


def config_path(name: str, to: Path) -> Path:
    """DIR/NAME.yaml, with underscores as the shipped ones."""
    return to / f"{_prefix(name).replace('-', '_')}.yaml"


def write(draft: Draft, to: Path) -> Path:
    """The config as a file that was not there before."""
    import yaml

    path = config_path(draft.name, to)
    text = yaml.safe_dump(draft.value, sort_keys=False, allow_unicode=True)
    _create(path, f"# kctl submit {path.stem}\n{text}")
    return path


def profile_beside(draft: Draft, to: Path) -> Path | None:
    """The shipped profile called default, copied to DIR/clusters where the config means it and there is no own one."""
    if draft.value.get("cluster", {}).get("profile", "default") != "default":
        return None
    shipped, copied = shipped_configs() / "clusters" / "default.yaml", to / "clusters" / "default.yaml"
    if find_profile("default", config_path(draft.name, to)).resolve() != shipped.resolve() or copied.exists():
        return None
    _create(copied, shipped.read_text(encoding="utf-8"))
    return copied


def refuse_existing(path: Path) -> None:
    """UsageError where there is something already."""
    if os.path.lexists(path):
        raise UsageError(f"{path}: exists, and is not overwritten: take another name, or remove it first")


def _create(path: Path, text: str) -> None:
    """Whole or not at all, and never over something that is there."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        os.link(beside, path)
    except FileExistsError:
        refuse_existing(path)
        raise KctlError(f"{path.parent}: is no folder: name another with --to") from None
    except OSError as error:
        raise KctlError(f"{path}: cannot be written: {error.strerror}; name another folder with --to") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
