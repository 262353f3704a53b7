"""A run's state on the volume: saved and resumed as checkpoints, published as adapters.

Rank 0 publishes, and only while its pod owns the run.
"""

import hashlib
import os
import shutil
from pathlib import Path

import torch.distributed as dist

from trainer import adapters, checkpoints, full_state
from trainer.checkpoints import Progress
from trainer.errors import CheckpointError, OwnershipLost, RunsFolderError, TrainerError
from trainer.metrics import say
from trainer.pod.ownership import still_owner
from trainer.run import Run
from trainer.schema import contract


def assert_owner(run: Run) -> None:
    """Rank 0, before every rename: another pod may have taken the run over."""
    if not still_owner(run.folder, os.environ[contract.ENV_OWNER]):
        raise OwnershipLost(f"{run.folder.root}: another pod owns this run now; this one stops and writes nothing")


def save(run: Run, progress: Progress) -> None:
    """A checkpoint of all ranks, published by rank 0. Returns on every rank once it is there."""
    temp = run.folder.checkpoints / f".step-{progress.step:06d}.tmp"
    if run.ranks.first:
        assert_owner(run)
        checkpoints.clear(temp)
    dist.barrier()
    try:
        if run.full:
            full_state.write_shards(run.engine, temp)
        else:
            checkpoints.write_slices(run.engine, temp, run.ranks.rank)
        dist.barrier()
        if run.ranks.first:
            keep = run.train.ops.checkpoint.keep
            checkpoints.publish(temp, run.folder, progress, digest(run), keep, lambda: assert_owner(run))
            say(f"checkpoint step={progress.step}")
    except RunsFolderError:  # a full volume is shared: what is half written would fill it for all others
        shutil.rmtree(temp, ignore_errors=True)
        raise
    # A rank that stops and leaves now would make torchrun end rank 0 in the middle of publishing.
    dist.barrier()


def digest(run: Run) -> str:
    """What identifies the data that this run trains and judges on."""
    return hashlib.sha256(f"{run.data.train.digest()} {run.data.validation.digest()}".encode()).hexdigest()


def resume(run: Run) -> Progress:
    """The newest checkpoint's state, or a fresh start; the same on every rank.

    CheckpointError where the data is not what the checkpoint was trained on; TrainerError where the nodes see
    different data or checkpoints, as with a volume that is slow to show changes.
    """
    path, data = checkpoints.newest(run.folder), digest(run)
    seen: list[tuple[str, str]] = [("", "")] * run.ranks.world
    dist.all_gather_object(seen, (path.name if path else "no checkpoint", data))
    if len(set(seen)) > 1:
        raise TrainerError(f"the ranks see different checkpoints or data ({sorted(set(seen))}); trying again")
    if path is None:
        return Progress()
    progress, trained_on = checkpoints.read_progress(path)
    if trained_on != data:
        raise CheckpointError(
            f"{path}: was trained on other data than train.data.path holds now: put the old file back, or raise "
            "train.revision to start a new run on the new data"
        )
    if run.full:
        full_state.load_shards(run.engine, path, run.ranks.world)
    else:
        checkpoints.load_slices(run.parameters, run.engine, path, progress.updates)
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
