"""Held-out losses, and what follows from them: the best adapter, early stopping, the end of a run that diverged."""

import math
import time
from dataclasses import replace

import torch

from trainer import guards, metrics
from trainer.checkpoints import Progress
from trainer.errors import Diverged
from trainer.evaluation import held_out_loss, sample
from trainer.metrics import say
from trainer.run import Run
from trainer.schema.schedule import is_evaluation
from trainer.state import publish_adapter


def judged(run: Run, progress: Progress, log: metrics.Metrics | None) -> Progress:
    """Evaluate where that is due: before the first step, and after those that the schedule names, but not among bad
    steps, whose weights may be broken."""
    step = progress.step
    due = step == 0 or is_evaluation(step, len(run.data.train), run.train)
    if progress.bad or not (run.subset and due and progress.evaluated < step):
        return progress
    with run.watch.during("evaluation", step):
        losses, progress = evaluate(run, step, log), replace(progress, evaluated=step)
    if step == 0:
        return replace(progress, before=losses, last_loss=losses["loss"])
    progress, rise = guards.judged_rise(judge(run, progress, losses), losses["loss"])
    if rise and log is not None:
        say(rise)
    return progress


def evaluate(run: Run, step: int, log: metrics.Metrics | None) -> dict[str, float]:
    """Held-out losses and sample answers after `step` updates, the same on every rank."""
    start = time.monotonic()
    run.model.eval()
    with torch.no_grad():
        losses = held_out_loss(run.engine.module, run.data.validation, run.subset, run.packing, run.ranks)
        answers = sample(run)
    if log is not None:
        said = " ".join(f"{name}={value:.4f}" for name, value in losses.items())
        say(f"evaluation step={step} {said} items={len(run.subset)} seconds={time.monotonic() - start:.1f}")
        log.write({"step": step, "evaluation": losses, "seconds": time.monotonic() - start})
        log.write_samples([{"step": step, **answer} for answer in answers])
    return losses


def judge(run: Run, progress: Progress, losses: dict[str, float]) -> Progress:
    """Keep the best adapter; count evaluations that brought less than min_delta."""
    loss = losses["loss"]
    if not math.isfinite(loss):
        raise Diverged(f"step {progress.step}: the held-out loss is {loss}: lower train.optim.lr and submit again")
    if progress.best_loss is None or loss < progress.best_loss:
        progress = replace(progress, best_loss=loss, best_step=progress.step, best=losses)
        publish_adapter(run, progress, run.folder.adapter)
    if progress.patience_loss is None or loss < progress.patience_loss - run.train.evaluation.min_delta:
        return replace(progress, patience_loss=loss, evaluations_without_gain=0)
    return replace(progress, evaluations_without_gain=progress.evaluations_without_gain + 1)


def exhausted(run: Run, progress: Progress) -> bool:
    """True where early stopping ends the run."""
    patience = run.train.evaluation.patience
    over = patience is not None and progress.evaluations_without_gain >= patience
    if over and run.ranks.first:
        say(
            f"early stop at step {progress.step}: {patience} evaluations without a gain, best step {progress.best_step}"
        )
    return over
