"""What a run writes while it trains: checkpoints and adapters. Rank 0 publishes, and only while it owns the run."""

import os
from pathlib import Path

import torch.distributed as dist

from trainer import adapters, checkpoints, full_state
from trainer.checkpoints import Progress
from trainer.errors import OwnershipLost
from trainer.metrics import say
from trainer.pod.ownership import still_owner
from trainer.run import Run
from trainer.schema import contract


def assert_owner(run: Run) -> None:
    """Rank 0, before every rename: another pod may have taken the run over."""
    if not still_owner(run.folder, os.environ[contract.ENV_OWNER]):
        raise OwnershipLost(f"{run.folder.root}: another pod owns this run now; this one stops and writes nothing")


def save(run: Run, progress: Progress) -> None:
    """A checkpoint of all ranks, published by rank 0."""
    temp = run.folder.checkpoints / f".step-{progress.step:06d}.tmp"
    if run.ranks.first:
        checkpoints.clear(temp)
    dist.barrier()
    if run.full:
        full_state.write_shards(run.engine, temp)
    else:
        checkpoints.write_slices(run.parameters, run.engine, temp, run.ranks.rank)
    dist.barrier()
    if run.ranks.first:
        keep = run.train.ops.checkpoint.keep
        checkpoints.publish(temp, run.folder, progress, keep, lambda: assert_owner(run))
        say(f"checkpoint step={progress.step}")


def resume(run: Run) -> Progress:
    """The newest checkpoint's state, or a fresh start."""
    path = checkpoints.newest(run.folder)
    if path is None:
        return Progress()
    progress = checkpoints.read_progress(path)
    if run.full:
        full_state.load_shards(run.engine, path, run.ranks.world)
    else:
        checkpoints.load_slices(run.parameters, run.engine, path, progress.step)
    if run.ranks.first:
        say(f"resumed from {path.name}")
    return progress


def publish_adapter(run: Run, progress: Progress, folder: Path) -> None:
    """The adapter (or whole model) as it is now, complete or not at all. LoRA's parameters are the fp32 masters."""
    weights = {name: parameter.data for name, parameter in run.parameters}
    if run.full:
        weights = full_state.gathered(run.parameters, run.ranks.first)
    if not run.ranks.first:
        return
    details = {**run.details, "step": progress.step, "steps": run.steps}
    details |= {"before": progress.before, "after": progress.best}
    state = adapters.adapter_state(run.model, weights)
    adapters.save_adapter(
        run.model, state, folder, run.train, run.file.run, details, run.base, lambda: assert_owner(run)
    )
