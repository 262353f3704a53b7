"""What is done about steps whose loss or gradient is no number: said, counted, and once gone back from."""

import math
from dataclasses import dataclass, replace

from trainer import guards
from trainer.batches import step_items
from trainer.checkpoints import Progress, by_step, set_aside, step_of
from trainer.distributed import gathered
from trainer.errors import Diverged
from trainer.metrics import Metrics, say
from trainer.run import Run
from trainer.state import assert_owner, resume, save, settle


@dataclass(frozen=True)
class StepResult:
    """What the ranks agree on after one step: loss per label, gradient norm before clipping, real tokens."""

    loss: float
    grad_norm: float
    tokens: int
    stop: str | None
    save: bool
    trained: bool
    """False where all items of the step are left out."""

    @property
    def good(self) -> bool:
        """Loss and gradient are numbers; else the engine has changed nothing."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def guarded(run: Run, progress: Progress, log: Metrics | None, result: StepResult) -> Progress:
    """`progress` after its step, or after the checkpoint to which the run went back.

    Diverged where it has gone back before, or has no checkpoint. The same on every rank.
    """
    progress = guards.counted(progress, result.good, result.trained)
    if result.good:
        return progress
    what = f"step {progress.step}: loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}"
    if log is not None:
        row = f"{len(progress.bad)} in a row, {progress.skipped} in all"
        say(f"{what}: skipped, {row}; items {named(run, items_of(run, progress.step))}")
    if len(progress.bad) <= run.train.ops.max_skipped:
        return progress
    return go_back(run, progress, log, what)


def go_back(run: Run, progress: Progress, log: Metrics | None, what: str) -> Progress:
    """Load the newest checkpoint, leave out what the bad steps trained, and save that decision at once."""
    settle(run)
    set_aside_from(run, progress.bad[0])
    if progress.left_out or not any(gathered(bool(by_step(run.folder)))):
        before = (
            "it had gone back to a checkpoint before" if progress.left_out else "there is no checkpoint to go back to"
        )
        raise Diverged(
            f"{what}: {guards.spell(progress.bad)} had no usable loss or gradient and {before}: lower "
            "train.optim.lr or train.optim.max_grad_norm and submit again, or look at "
            f"{named(run, items_of(run, progress.step))}"
        )
    restored = resume(run)
    left_out = guards.to_leave_out(progress.bad, restored.step, lambda step: items_of(run, step))
    if log is not None:
        say(
            f"{guards.spell(progress.bad)} had no usable loss or gradient: back to step {restored.step}; "
            f"{len(left_out)} items are left out from now on: {named(run, left_out)}"
        )
        log.go_back(restored.step)
    restored = replace(restored, left_out=left_out, seconds=progress.seconds)
    if progress.best_loss is not None and (restored.best_loss is None or progress.best_loss < restored.best_loss):
        # That adapter is published already, and is still the best.
        restored = replace(restored, best_loss=progress.best_loss, best_step=progress.best_step, best=progress.best)
    save(run, restored, wait=True)
    return restored


def set_aside_from(run: Run, step: int) -> None:
    """Checkpoints of that step and later ones: a stop among bad steps saved them, with weights that may be broken."""
    if run.ranks.first:
        for path in by_step(run.folder):
            if step_of(path) >= step:
                assert_owner(run)
                set_aside(path)


def items_of(run: Run, step: int) -> list[int]:
    """Items of step number `step` (from 1), by number."""
    return step_items(step - 1, len(run.data.train), run.train)


def named(run: Run, items: list[int]) -> str:
    """The first of these items by their ids."""
    return guards.some([run.data.train.ids[item] for item in items])
