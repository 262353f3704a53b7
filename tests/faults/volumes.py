"""Two ranks whose checkpoints are on a small ext4 of their own: `volumes.py FOLDER CGROUP`, under torchrun, by
test_volumes.

What happens to the volume happens between two steps of a real run. Rank 0 says what it does, each rank what it met.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch.distributed as dist

from tests.training.one_rank import begin, config, fingerprint, steps
from trainer import state
from trainer.checkpoints import Progress
from trainer.distributed import end_process, join, leave
from trainer.errors import RunsFolderError
from trainer.metrics import say
from trainer.run import Run
from trainer.state import due, resume, save, settle
from trainer.train import train_step

TRAIN = config(lora={"rank": 640})
"""A checkpoint of 14 MB: a slow volume has something to write for a while."""
RATE = 10 * 2**20
"""Bytes a second of the slow volume."""
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


def throttle(run: Run, group: Path) -> None:
    """From here on all that the ranks write onto the volume passes through at RATE; reading is as fast as before.

    The kernel's own flushing is not held back by version 1 of cgroups, but begins seconds after the writer's fsync.
    """
    if run.ranks.first:
        device = run.folder.checkpoints.stat().st_dev
        limits = {"blkio.throttle.write_bps_device": RATE, "io.max": f"wbps={RATE}"}
        name, limit = next((name, limit) for name, limit in limits.items() if (group / name).exists())
        (group / name).write_text(f"{os.major(device)}:{os.minor(device)} {limit}")
    (group / "cgroup.procs").write_text(str(os.getpid()))
    dist.barrier()


def slow(run: Run, progress: Progress) -> Progress:
    """Checkpoints are asked for all the time: the next begins once the one before is there. Then a stop."""
    progress = steps(run, progress, 1)
    first, begun, saves = progress.step, time.monotonic(), False
    save(run, progress)
    times = [time.monotonic()]
    while not saves:
        saves = train_step(run, progress.step, due(run, 1000)).save
        progress = replace(progress, step=progress.step + 1)
        times.append(time.monotonic())
    if run.ranks.first:
        size = sum(path.stat().st_size for path in run.folder.checkpoint(first).iterdir())
        longest = max(after - before for before, after in pairwise(times))
        wrote = times[-1] - begun
        say(json.dumps({"bytes": size, "wrote": wrote, "steps": len(times) - 1, "longest": longest}))
    save(run, progress)
    progress = steps(run, progress, 1)
    if run.ranks.first:
        say(f"a stop while writing: {run.writer.busy}")
    save(run, progress, wait=True)
    return progress


def resumes(run: Run, progress: Progress) -> None:
    """The newest checkpoint is of `progress` and brings back what is trained now."""
    before = fingerprint(run)
    steps(run, progress, 1)
    assert resume(run).step == progress.step and fingerprint(run) == before


def main() -> None:
    root, group = map(Path, sys.argv[1:])
    run = begin(root, join(), TRAIN)
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
    tell(run, "== resumed")
    resumes(run, progress)
    throttle(run, group)
    tell(run, "== slow")
    progress = slow(run, progress)
    tell(run, "== resumed again")
    resumes(run, progress)
    tell(run, "== the end")
    leave()


if __name__ == "__main__":
    main()
    end_process()
