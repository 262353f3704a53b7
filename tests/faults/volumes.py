"""Two ranks whose checkpoints are on a small ext4 of their own: `volumes.py FOLDER`, under torchrun, by test_volumes.

What happens to the volume happens between two steps of a real run. Rank 0 says what it does, each rank what it met.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch.distributed as dist

from tests.training.one_rank import begin, config, fingerprint, steps
from trainer import state
from trainer.checkpoints import Progress
from trainer.distributed import join, leave
from trainer.errors import RunsFolderError
from trainer.metrics import say
from trainer.run import Run
from trainer.state import due, resume, save, settle

PAUSE, AT_MOST = 1.0, 60
"""Seconds for which a stop finds the volume standing still; after which it moves again whatever becomes of us."""


def tell(run: Run, text: str) -> None:
    """Everything of before is said by then; who reads it knows where it belongs."""
    dist.barrier()
    if run.ranks.first:
        say(text)
    dist.barrier()


@contextmanager
def full(run: Run) -> Iterator[None]:
    """Nothing more fits onto the volume."""
    ballast = run.folder.checkpoints / ".ballast"
    if run.ranks.first:
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1024)):
                    continue
            except OSError:
                pass
    dist.barrier()
    yield
    dist.barrier()
    if run.ranks.first:
        ballast.unlink()
    dist.barrier()


@contextmanager
def read_only(run: Run) -> Iterator[None]:
    """The volume is mounted read-only."""
    for how in ("ro", "rw"):
        if run.ranks.first:
            subprocess.run(["mount", "-o", f"remount,{how}", run.folder.checkpoints], check=True)
        dist.barrier()
        if how == "ro":
            yield
            dist.barrier()


def troubled(run: Run, progress: Progress) -> Progress:
    """A checkpoint is due while the volume takes none; training goes on. A stop's own must be there."""
    save(run, progress)
    progress = steps(run, progress, 2)
    settle(run)
    try:
        save(run, progress, wait=True)
    except RunsFolderError as error:
        say(f"rank {run.ranks.rank} stops with code {int(error.code)}: {error}")
    return progress


def frozen(run: Run, progress: Progress) -> Progress:
    """The volume stands still while a checkpoint is written: steps are made meanwhile, and a stop waits for it."""
    temp, place = state._place(run, progress.step), run.folder.checkpoints
    if run.ranks.first:
        subprocess.run(["fsfreeze", "-f", place], check=True)
        thaw = subprocess.Popen(["bash", "-c", f'read -t {AT_MOST} _; fsfreeze -u "{place}"'], stdin=subprocess.PIPE)
    dist.barrier()
    run.writer.begin(temp, state._about(run, progress), partial(state._publish, run, progress, temp))
    later = steps(run, progress, 3)
    say(f"rank {run.ranks.rank}: 3 steps, writing: {run.writer.busy}, asked again: {due(run, 1000)}")
    dist.barrier()
    begun = time.monotonic()
    if run.ranks.first:
        threading.Timer(PAUSE, thaw.communicate).start()
    save(run, later, wait=True)
    say(f"rank {run.ranks.rank} waited: {time.monotonic() - begun >= PAUSE / 2}")
    return later


def main() -> None:
    root = Path(sys.argv[1])
    run = begin(root, join(), config())
    progress = steps(run, Progress(), 1)
    save(run, progress)
    for name, volume in (("full", full), ("read-only", read_only)):
        settle(run)
        tell(run, f"== {name}")
        with volume(run):
            progress = troubled(run, progress)
        tell(run, "== as before")
        save(run, progress)
        settle(run)
    tell(run, "== frozen")
    progress = frozen(run, progress)
    before = fingerprint(run)
    steps(run, progress, 1)
    tell(run, "== resumed")
    assert resume(run).step == progress.step and fingerprint(run) == before
    tell(run, "== the end")
    leave()


if __name__ == "__main__":
    main()
