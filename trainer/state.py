"""A run's state on the volume: saved and resumed as checkpoints, published as adapters.

Rank 0 publishes, and only while its pod owns the run.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from trainer import adapters, checkpoints, full_state
from trainer.atomic import named_errors, temporary
from trainer.checkpoints import Checkpoint, Files, Progress
from trainer.distributed import gathered
from trainer.errors import CheckpointDamaged, CheckpointError, Diverged, OwnershipLost, RunsFolderError, TrainerError
from trainer.lora_state import load_slices
from trainer.metrics import say
from trainer.pod.outcome import finite
from trainer.pod.ownership import still_owner
from trainer.run import Run
from trainer.schema import contract
from trainer.schema.schedule import steps_per_epoch

BYTES = 12
"""A trained parameter's share of a checkpoint: fp32 master and two moments."""


def assert_owner(run: Run) -> None:
    """Rank 0, before every rename: another pod may have taken the run over."""
    if not still_owner(run.folder, os.environ[contract.ENV_OWNER]):
        raise OwnershipLost(f"{run.folder.root}: another pod owns this run now; this one stops and writes nothing")


def due(run: Run, step: int) -> bool:
    """Rank 0's clock: should a checkpoint be begun after `step` updates? Not while one is written, nor without room."""
    if not run.ranks.first or not run.due.asks(step):
        return False
    if run.writer.busy:
        if not run.writer.overdue:
            say(f"step {step}: the next checkpoint waits, the one before is still being written: a slow volume")
        run.writer.overdue = True
        return False
    needed = run.details["trained"] * BYTES
    place = run.folder.root
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        say(f"no checkpoint of step {step}: {place}: {error.strerror}; training goes on")
        run.due.reset()
        return False
    if free >= needed:
        return True
    say(
        f"no checkpoint of step {step}: it needs {needed / 1e9:.3g} GB and {place} has {free / 1e9:.3g}: "
        f"make room there; training goes on, the next try is in {run.train.ops.checkpoint.every}"
    )
    run.due.reset()
    return False


def save(run: Run, progress: Progress, wait: bool = False) -> None:
    """Begin a checkpoint of all ranks, which is published by rank 0 while they train on; under ZeRO-3 write it now.

    `wait`: return on every rank once it is there, or raise what prevents it; else trouble of the volume is said.
    """
    settle(run)
    run.due.reset()
    try:
        temp = _place(run, progress.step)
        if run.full:
            _write_full(run, progress, temp)
            return
        run.writer.begin(temp, _about(run, progress), lambda files: _publish(run, progress, temp, files))
        if wait:
            run.writer.finish()
    except RunsFolderError as error:
        if wait:
            raise
        _say_unsaved(run, error)


def settle(run: Run) -> None:
    """Collective: wait for the checkpoint being written. If the volume did not take it, that is said and no more."""
    try:
        run.writer.finish()
    except RunsFolderError as error:
        _say_unsaved(run, error)


def _say_unsaved(run: Run, error: RunsFolderError) -> None:
    if run.ranks.first:
        what = str(error).replace(" and submit again", "")
        say(f"no checkpoint: {what}; training goes on, the next try is in {run.train.ops.checkpoint.every}")


def _place(run: Run, step: int) -> Path:
    """A new folder of the owner's, known to all ranks, which raise what prevents it."""
    made: Path | TrainerError | None = None
    if run.ranks.first:
        try:
            assert_owner(run)
            made = temporary(run.folder.checkpoint(step))
            with named_errors(made):
                made.mkdir(parents=True)
        except TrainerError as error:
            made = error
    made = gathered(made)[0]
    if isinstance(made, TrainerError):
        raise made
    assert made is not None
    return made


def _about(run: Run, progress: Progress) -> dict[str, str]:
    """Binds a file to its run and step, wherever it is found."""
    return {"run": run.file.run, "step": str(progress.step), "world": str(run.ranks.world)}


def _publish(run: Run, progress: Progress, temp: Path, files: Files) -> None:
    epoch, place = divmod(progress.step, steps_per_epoch(len(run.data.train), run.train))
    position = {"seed": run.train.seed, "epoch": epoch, "step_of_epoch": place}
    about = {"world": run.ranks.world, "position": position}
    checkpoints.publish(temp, run.folder, run.origin, progress, about, files, lambda: assert_owner(run))
    say(f"checkpoint step={progress.step}")
    wanted = run.train.ops.checkpoint
    best_step = 0 if run.full else progress.best_step  # a whole model's state is hundreds of gigabytes
    checkpoints.prune(run.folder, wanted.keep, best_step, wanted.keep_every)


def _write_full(run: Run, progress: Progress, temp: Path) -> None:
    found = gathered(full_state.write_state(run.parameters, run.engine, run.ranks, temp, _about(run, progress)))
    failed: TrainerError | None = next((one for one in found if isinstance(one, TrainerError)), None)
    if run.ranks.first:
        try:
            if failed is None:
                files = {name: signed for one in found for name, signed in one.items()}
                _publish(run, progress, temp, files)
        except TrainerError as error:
            failed = error
        if failed is not None:
            shutil.rmtree(temp, ignore_errors=True)
    # A rank that stops and leaves now would make torchrun end rank 0 in the middle of publishing.
    failed = gathered(failed)[0]
    if failed is not None:
        raise failed


def resume(run: Run) -> Progress:
    """The newest whole checkpoint's state, or a fresh start where there is none; the same on every rank.

    CheckpointError where it is another run's, model's, data's or version's, or none is whole; TrainerError where the
    nodes see different data or checkpoints, as with a volume that is slow to show changes.
    """
    settle(run)
    run.due.reset()
    found = checkpoints.by_step(run.folder)
    seen = set(gathered((tuple(path.name for path in found), run.origin)))
    if len(seen) > 1:
        raise TrainerError(f"the ranks see different checkpoints or data ({sorted(map(str, seen))}); trying again")
    damages: list[str] = []
    for path in reversed(found):
        checkpoint, damage = _examine(run, path)
        if checkpoint is not None:
            _load(run, checkpoint)
            _say_resumed(run, checkpoint, damages)
            return checkpoint.progress
        damages.append(damage)
    if damages:
        raise CheckpointError(
            f"none of {len(found)} checkpoints can be used; {damages[0]}: put a whole one there, or raise "
            "train.revision to start anew"
        )
    return Progress()


def _examine(run: Run, path: Path) -> tuple[Checkpoint | None, str]:
    """What is at `path`; None and the reason where it is damaged. Each rank compares its share of the files.

    TrainerError where only some ranks see all files.
    """
    checkpoint, unread, damage = None, "", ""
    try:
        checkpoint = checkpoints.read(path, run.origin)
    except CheckpointDamaged as error:
        unread = str(error)
    seen = gathered(unread)
    if checkpoint is None or any(seen):
        if "" in seen:
            raise TrainerError(f"only some ranks see a whole checkpoint ({max(seen)}); trying again")
        return None, unread
    try:
        checkpoints.verify(checkpoint, run.ranks.rank, run.ranks.world)
    except CheckpointDamaged as error:
        damage = str(error)
    damage = max(gathered(damage))
    return (None if damage else checkpoint), damage


def _load(run: Run, checkpoint: Checkpoint) -> None:
    if run.full:
        full_state.load_state(run.parameters, run.engine, run.ranks, checkpoint, run.file.run)
    else:
        load_slices(run.parameters, run.engine, checkpoint, run.file.run)


def _say_resumed(run: Run, checkpoint: Checkpoint, damages: list[str]) -> None:
    """Rank 0: what was skipped is said, and set aside now that a whole one is loaded."""
    if not run.ranks.first:
        return
    for damage in damages:
        say(f"damaged checkpoint skipped: {damage}")
    if damages:
        assert_owner(run)
        for path in checkpoints.by_step(run.folder):
            if checkpoints.step_of(path) > checkpoint.progress.step:
                checkpoints.set_aside(path)
    say(f"resumed from {checkpoint.path.name}")


def publish_adapter(run: Run, progress: Progress, folder: Path) -> None:
    """The adapter (or whole model) as it is now, complete or not at all; every rank waits for it. LoRA's parameters are
    the fp32 masters. Diverged where they are no numbers."""
    failed: TrainerError | None = None
    with run.watch.during("adapter", progress.step):
        try:
            _publish_adapter(run, progress, folder)
        except TrainerError as error:
            failed = error
        failed = gathered(failed)[0]
    if failed is not None:
        raise failed


def _publish_adapter(run: Run, progress: Progress, folder: Path) -> None:
    if run.full:
        values = full_state.whole_values(run.model, run.ranks.first)
        try:
            if run.ranks.first:
                _save_adapter(run, progress, folder, values)
        finally:
            for _ in values:  # each is a collective, also where rank 0 cannot write any more
                pass
    elif run.ranks.first:
        masters = {name: parameter.data for name, parameter in run.parameters}
        _save_adapter(run, progress, folder, adapters.adapter_state(run.model, masters).items())


def _save_adapter(run: Run, progress: Progress, folder: Path, state: Iterable[tuple[str, Tensor]]) -> None:
    details = {**run.details, "step": progress.step, "steps": run.steps}
    details |= {"before": progress.before, "after": progress.best, "data": run.origin.data}
    details["losses"] = finite(progress.best) if progress.step == progress.best_step else {}
    numbers = _numbers(state, progress.step)
    adapters.save_adapter(
        run.model, numbers, folder, run.train, run.file.run, details, run.base, lambda: assert_owner(run)
    )


def _numbers(state: Iterable[tuple[str, Tensor]], step: int) -> Iterator[tuple[str, Tensor]]:
    for name, value in state:
        if bool(torch.isnan(value).any()):
            raise Diverged(f"step {step}: {name} holds values that are no numbers: lower train.optim.lr")
        yield name, value
