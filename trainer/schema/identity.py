"""What is computed names the run; where it runs does not.

run = <name>-<8 hex of sha256 over canonical JSON of `train`>: without `ops`, without fields at their default,
with `schema`. Changing a default raises SCHEMA; a golden test pins the names of all shipped configs.
"""

import hashlib
import json
from typing import Any

from trainer.schema.config import TrainConfig

SCHEMA = 1
"""Raised when a default changes its meaning, so that old names cannot come to mean something else."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def train_hash(train: TrainConfig) -> str:
    """64 hex digits of what the run computes."""
    fields = train.model_dump(mode="json", exclude_defaults=True, exclude={"ops"})
    return hashlib.sha256(canonical({"schema": SCHEMA, "train": fields}).encode()).hexdigest()


def run_name(name: str, train: TrainConfig) -> str:
    """`<name>-<8 hex>`: the run's name everywhere, from the object in the cluster to the folder on the volume."""
    return f"{name}-{train_hash(train)[:8]}"
