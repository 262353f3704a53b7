"""From outside to TrainConfig, with errors a person can act on: `FILE: field: problem`.

Also the run file: the one JSON document that travels from kctl to the launcher.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trainer.errors import ConfigError
from trainer.schema.config import TrainConfig
from trainer.schema.identity import train_hash

Loaded = TypeVar("Loaded", bound=BaseModel)

_BOUNDS = {
    "greater_than_equal": ">= {ge}",
    "greater_than": "> {gt}",
    "less_than_equal": "<= {le}",
    "less_than": "< {lt}",
}


def validated(model: type[Loaded], value: Any, where: str, prefix: str = "") -> Loaded:
    """`value` as `model`; ConfigError names file, field, value and remedy of the first thing that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(_sentence(error, where, prefix)) from None


def _sentence(error: ValidationError, where: str, prefix: str) -> str:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in (prefix, *first["loc"]) if part != "")
    kind, given = first["type"], first.get("input")
    if kind in _BOUNDS:
        problem = f"must be {_BOUNDS[kind].format(**first['ctx'])}, got {given}"
    elif kind == "missing":
        problem = "is missing"
    elif kind in ("unknown_key", "refused", "bool_as_number"):
        problem = first["msg"]
    elif kind == "value_error":
        problem = first["msg"].removeprefix("Value error, ")
    else:
        shown = json.dumps(given, default=str, ensure_ascii=False)
        problem = f"{first['msg'].replace('Input should', 'should')}, got {shown[:80]}"
    more = error.error_count() - 1
    tail = f" (and {more} more)" if more else ""
    return f"{where}: {field + ': ' if field else ''}{problem}{tail}"


@dataclass(frozen=True)
class RunFile:
    """What the launcher reads: the run's name and its TrainConfig with every field spelled out."""

    run: str
    train: TrainConfig

    def to_json(self) -> str:
        """Deterministic, readable JSON."""
        value = {"run": self.run, "train": self.train.model_dump(mode="json")}
        return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_run_file(path: Path) -> RunFile:
    """Load and check a run file. ConfigError if it is unreadable, wrong, or its name is not its content's."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; render it with kctl render") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: no JSON: {error}; render it with kctl render") from None
    if not isinstance(value, dict) or set(value) != {"run", "train"} or not isinstance(value["run"], str):
        raise ConfigError(f"{path}: must be an object with the keys run and train; render it with kctl render")
    train = validated(TrainConfig, value["train"], str(path), "train")
    expected = train_hash(train)[:8]
    if value["run"].rpartition("-")[2] != expected:
        raise ConfigError(
            f"{path}: run {value['run']!r} is not the name of its content (...-{expected}): "
            "kctl and this image disagree, or the file was edited; render and submit it again"
        )
    return RunFile(value["run"], train)
