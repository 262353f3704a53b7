"""What the numbers of a step and of an evaluation mean for the run: decisions alone, nothing is done here.

A step is bad where its loss or gradient norm is no number; the engine has left it out already (trainer.engine).
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from trainer.checkpoints import Progress

WINDOW, ENOUGH = 64, 16
"""Steps that a loss and a gradient norm are compared with, and how many there must be."""
LOSS_FACTOR, LOSS_MARGIN = 2.0, 0.1
"""A loss above LOSS_FACTOR times the median and by LOSS_MARGIN nats is a spike: small ones differ by factors."""
NORM_FACTOR = 10.0
QUIET = 100
"""Steps between two lines of the same kind."""
RISES = 2
"""Evaluations in a row, each worse than the one before, that are worth a line."""


def counted(progress: Progress, good: bool, trained: bool) -> Progress:
    """`progress` after its step: a bad step joins the bad ones right before it, a good one ends their row.

    Not `trained`: all the step's items are left out, which says nothing about the others.
    """
    if good and trained:
        return replace(progress, bad=[]) if progress.bad else progress
    without = progress.without_update + 1
    if good:
        return replace(progress, without_update=without)
    return replace(progress, without_update=without, skipped=progress.skipped + 1, bad=[*progress.bad, progress.step])


def to_leave_out(bad: Sequence[int], checkpoint: int, items_of: Callable[[int], Sequence[int]]) -> list[int]:
    """Items that are not trained again after going back to the checkpoint of step number `checkpoint`.

    Those of the `bad` steps (from 1), and of the step before them, whose update may be what broke the weights; but
    not where that one is in the checkpoint. `items_of`: the items of a step, from 1.
    """
    steps = [*([bad[0] - 1] if bad[0] - 1 > checkpoint else []), *bad]
    return sorted({item for step in steps for item in items_of(step)})


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def spell(steps: Sequence[int]) -> str:
    """`step 7`, or `steps 7 to 12`."""
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"


def judged_rise(progress: Progress, loss: float) -> tuple[Progress, str | None]:
    """`progress` after an evaluation, and a line where the held-out loss rises for the second time in a row."""
    rises = progress.rises + 1 if progress.last_loss is not None and loss > progress.last_loss else 0
    after = replace(progress, last_loss=loss, rises=rises)
    if rises != RISES or progress.best_loss is None:
        return after, None
    return after, (
        f"the held-out loss rises: {loss:.4f} at step {progress.step}, {progress.last_loss:.4f} before, "
        f"lowest {progress.best_loss:.4f} at step {progress.best_step}; the adapter of that step is kept as the best"
    )


class Spikes:
    """The last steps' losses and gradient norms, and what stands out from them."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {"loss": deque(maxlen=WINDOW), "grad_norm": deque(maxlen=WINDOW)}
        self._inside: set[str] = set()
        self._quiet_until = dict.fromkeys(self._seen, 0)

    def lines(self, step: int, loss: float, grad_norm: float) -> list[str]:
        """What is to be said after good step number `step`: once at the beginning of each spike."""
        found = [
            self._line(step, "loss", loss, LOSS_FACTOR, LOSS_MARGIN),
            self._line(step, "grad_norm", grad_norm, NORM_FACTOR, 0.0),
        ]
        return [line for line in found if line]

    def _line(self, step: int, name: str, value: float, factor: float, margin: float) -> str | None:
        seen = self._seen[name]
        steps, usual = len(seen), statistics.median(seen) if len(seen) >= ENOUGH else math.inf
        seen.append(value)
        if value <= factor * usual + margin:
            self._inside.discard(name)
            return None
        known = name in self._inside or step < self._quiet_until[name]
        self._inside.add(name)
        if known:
            return None
        self._quiet_until[name] = step + QUIET
        return f"spike at step {step}: {name}={value:.4g}, the median of the last {steps} steps is {usual:.4g}"
