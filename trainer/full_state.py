"""State and weights of a full-parameter run under ZeRO-3.

The shards are DeepSpeed's own files, and those are pickles: trainer.checkpoints has compared each with the sha256
that this run wrote before one is opened here. That does not stop somebody who can write to the runs volume.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.checkpoints import Checkpoint
from trainer.errors import CheckpointError, RunsFolderError, first_line

TAG = "shards"


def shard_at_load(config: dict[str, Any]) -> object:
    """Makes from_pretrained partition weights as it reads them; keep the result alive until the model is loaded."""
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(config)


def write_shards(engine: Any, temp: Path) -> RunsFolderError | None:
    """Every rank's shard of weights, masters and moments into `temp`; what kept this rank from it.

    Not raised: the others would wait in the barrier at DeepSpeed's end of it.
    """
    failed: list[RunsFolderError] = []
    files = engine.checkpoint_engine
    write = files.save

    def save(*state: Any, **named: Any) -> None:
        try:
            write(*state, **named)
        except (OSError, RuntimeError) as error:  # torch has no class for a write that fails
            failed.append(RunsFolderError(f"{temp.parent}: {first_line(error)}: make room there and submit again"))

    files.save = save
    try:
        engine.save_checkpoint(str(temp), tag=TAG, save_latest=False)
    finally:
        files.save = write
    return failed[0] if failed else None


def load_shards(engine: Any, checkpoint: Checkpoint, world: int) -> None:
    """What write_shards wrote, by the same number of ranks. CheckpointError otherwise."""
    path, written = checkpoint.path, checkpoint.world
    if written != world:
        raise CheckpointError(
            f"{path}: was written by {written} ranks, this run has {world}: submit it with {written} ranks"
        )
    engine.load_checkpoint(str(path), tag=TAG, load_lr_scheduler_states=False)


def whole_values(model: nn.Module, first: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, value) of all that the model's files hold, on the CPU of the first rank, gathered one by one.

    Each item is a collective: the first rank reads at its pace, and all ranks read to the end. The others get nothing.
    """
    import deepspeed

    done = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in done:  # tied to one that is there
            continue
        done.add(id(value))
        with deepspeed.zero.GatheredParameters(value):
            whole = value.detach().to("cpu", copy=True) if first else None
        if whole is not None:
            yield name, whole
