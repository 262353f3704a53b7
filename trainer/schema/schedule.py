"""The learning rate and the points of evaluation, as functions of the step number alone. Torch-free.

Steps count from 0; `step` here is the number of updates already made.
"""

import math
import time

from trainer.schema.config import TrainConfig
from trainer.schema.method import Optim
from trainer.schema.ops import parse_every


def steps_per_epoch(items: int, train: TrainConfig) -> int:
    """ceil(items / global_batch_size): nothing is dropped, the last step of an epoch may be smaller."""
    return -(-items // train.global_batch_size)


def total_steps(items: int, train: TrainConfig) -> int:
    """Steps of the whole run, bounded by max_steps."""
    steps = train.epochs * steps_per_epoch(items, train)
    return min(steps, train.max_steps) if train.max_steps is not None else steps


def learning_rate(step: int, optim: Optim, decay_steps: int) -> float:
    """Rate of the update number `step` (from 0): linear warm-up, then the schedule down to min_lr_ratio."""
    warmup = optim.warmup_steps or 0
    if optim.warmup_ratio is not None:
        warmup = math.ceil(optim.warmup_ratio * decay_steps)
    if step < warmup:
        return optim.lr * (step + 1) / (warmup + 1)
    if optim.schedule == "constant":
        return optim.lr
    progress = min(1.0, (step - warmup) / max(1, decay_steps - warmup))
    shape = 1.0 - progress if optim.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return optim.lr * (optim.min_lr_ratio + (1.0 - optim.min_lr_ratio) * shape)


def decay_steps(items: int, train: TrainConfig) -> int:
    """Steps over which the rate decays: schedule_epochs of them, or the whole run, whichever ends first."""
    whole = total_steps(items, train)
    if train.optim.schedule_epochs is None:
        return whole
    return max(1, min(whole, math.ceil(train.optim.schedule_epochs * steps_per_epoch(items, train))))


def is_evaluation(done: int, items: int, train: TrainConfig) -> bool:
    """True where held-out loss is due after `done` updates: evenly in each epoch, and at the run's end."""
    per_epoch = steps_per_epoch(items, train)
    if done == total_steps(items, train):
        return True
    place = (done - 1) % per_epoch + 1
    times = min(train.evaluation.per_epoch, per_epoch)
    return any(place == round(per_epoch * part / times) for part in range(1, times + 1))


class Due:
    """When the next checkpoint is due, by this process's clock or by steps; who is asked late says so later."""

    def __init__(self, every: str) -> None:
        self._every, self._unit = parse_every(every)
        self.reset()

    def reset(self) -> None:
        """A checkpoint begins, or the run does."""
        self._since, self._asked = time.monotonic(), False

    def asks(self, step: int) -> bool:
        """True after `step` updates, or once since the last reset, where one should be written."""
        over = step % int(self._every) == 0 if self._unit == "steps" else time.monotonic() - self._since >= self._every
        self._asked = self._asked or over
        return self._asked
