"""From outside to TrainConfig, with errors a person can act on: `FILE: field: problem`.

Also the run file: the one JSON document that travels from kctl to the launcher.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trainer.errors import ConfigError
from trainer.schema.config import TrainConfig
from trainer.schema.identity import train_hash
from trainer.schema.sentences import first_of, location, sentence

Loaded = TypeVar("Loaded", bound=BaseModel)

Where = Callable[[tuple[str, ...]], str]
"""From a field's place to the file that wrote it."""


def validated(model: type[Loaded], value: Any, where: str | Where, prefix: str = "") -> Loaded:
    """`value` as `model`; ConfigError names file, field, value and remedy of the first thing that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found, more = first_of(error)
        file = where if isinstance(where, str) else where(_written_at(found))
        raise ConfigError(f"{file}: {sentence(found, prefix)}{more}") from None


def _written_at(found: Any) -> tuple[str, ...]:
    # A rule that spans sections names its field at the start of its sentence; an unknown key is no field yet.
    named = re.match(r"Value error, ([a-z_]+(?:\.[a-z_]+)+): ", found["msg"])
    key = found.get("ctx", {}).get("key")
    return tuple(named[1].split(".")) if named else location(found) + ((str(key),) if key else ())


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
