"""Ranks of a full-parameter run that meet damage and a full volume, or go on: `full_run.py FOLDER [offload]`.

Under torchrun, by test_full_run. The first time it trains; with its checkpoints there it resumes and no more.
"""

import contextlib
import hashlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.training.one_rank import SAVED, begin, config, steps
from trainer.checkpoints import Progress
from trainer.distributed import end_process, join, leave
from trainer.errors import TrainerError
from trainer.full_state import whole_values
from trainer.metrics import say
from trainer.run import Run
from trainer.state import publish_adapter, resume, save

FULL = config(method="full", lora=None)
SMALL = 20_000
"""Bytes of a file at most, on a volume that takes no more: less than the model's largest tensor."""


def weights(run: Run) -> str:
    """sha256 of the whole model, on rank 0."""
    found = hashlib.sha256()
    for name, value in whole_values(run.model, run.ranks.first):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def damaged(run: Run) -> Progress:
    """Train, damage the newest checkpoint, resume, train again: the same weights to the bit."""
    progress, states = Progress(), []
    for step in SAVED:
        progress = steps(run, progress, step - progress.step)
        save(run, progress)
        states.append(weights(run))
    if run.ranks.first:
        path = sorted(run.folder.checkpoint(SAVED[-1]).glob("rank-*.safetensors"))[-1]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    progress = resume(run)
    back = weights(run) == states[-2]
    progress = steps(run, progress, SAVED[-1] - progress.step)
    again = weights(run) == states[-1]
    if run.ranks.first:
        say(f"as before: {back} {again}")
    return progress


@contextlib.contextmanager
def full_on(run: Run, rank: int) -> Iterator[None]:
    """One rank can write no file of some size."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if run.ranks.rank == rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, limits[1]))
    try:
        yield
    except TrainerError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        say(f"rank {run.ranks.rank} stops with code {int(error.code)}: {error}")
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def no_room(run: Run, progress: Progress) -> None:
    """A volume that takes nothing: training goes on without a checkpoint, a stop ends all ranks, as an adapter does."""
    with full_on(run, 1):
        save(run, progress)
    with full_on(run, 1):
        save(run, progress, wait=True)
    save(run, progress)
    with full_on(run, 0):
        publish_adapter(run, progress, run.folder.adapter)
    publish_adapter(run, progress, run.folder.adapter)


def say_weights(run: Run) -> None:
    found = weights(run)
    if run.ranks.first:
        say(f"weights {found}")


def main() -> None:
    ranks, offload = join(), sys.argv[2:] == ["offload"]
    run = begin(
        Path(sys.argv[1]), ranks, FULL.model_copy(update={"ops": FULL.ops.model_copy(update={"offload": offload})})
    )
    if run.folder.checkpoints.exists():
        resume(run)
    else:
        no_room(run, damaged(run))
    say_weights(run)
    leave()


if __name__ == "__main__":
    main()
    end_process()
