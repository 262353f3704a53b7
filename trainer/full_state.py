"""State and weights of a full-parameter run under ZeRO-3.

The shards are DeepSpeed's own files, and those are pickles: trainer.checkpoints has compared each with the sha256
that this run wrote before one is opened here. That does not stop somebody who can write to the runs volume.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.checkpoints import Checkpoint
from trainer.errors import CheckpointError

TAG = "shards"


def shard_at_load(config: dict[str, Any]) -> object:
    """Makes from_pretrained partition weights as it reads them; keep the result alive until the model is loaded."""
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(config)


def write_shards(engine: Any, temp: Path) -> None:
    """Every rank's shard of weights, masters and moments into `temp`."""
    engine.save_checkpoint(str(temp), tag=TAG, save_latest=False)


def load_shards(engine: Any, checkpoint: Checkpoint, world: int) -> None:
    """What write_shards wrote, by the same number of ranks. CheckpointError otherwise."""
    path, written = checkpoint.path, checkpoint.world
    if written != world:
        raise CheckpointError(
            f"{path}: was written by {written} ranks, this run has {world}: submit it with {written} ranks"
        )
    engine.load_checkpoint(str(path), tag=TAG, load_lr_scheduler_states=False)


def gathered(parameters: list[tuple[str, nn.Parameter]], first: bool) -> dict[str, torch.Tensor]:
    """Whole weights on the CPU of the first rank, one parameter at a time; empty elsewhere. A collective."""
    import deepspeed

    whole = {}
    for name, parameter in parameters:
        with deepspeed.zero.GatheredParameters(parameter):
            if first:
                whole[name] = parameter.data.detach().cpu().clone()
    return whole
