"""Checkpoints of two ranks on a real file system that fills up, is read-only, stands still or is slow. Needs root."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.volumes import RATE, TRAIN
from tests.training.one_rank import write_inputs
from tests.training.world import send
from trainer.schema.contract import RunFolder
from trainer.schema.identity import run_name

MEBIBYTES = 128
CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def cgroup() -> Iterator[Path]:
    """A new group that can limit writing, of cgroups version 1 or 2. Whoever is left in it afterwards is killed."""
    parent = CGROUPS / "blkio"
    if not parent.is_dir():
        parent = CGROUPS
        (parent / "cgroup.subtree_control").write_text("+io")
    group = parent / f"kctl-test-volumes-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        end = time.monotonic() + 30
        while left := (group / "cgroup.procs").read_text().split():
            assert time.monotonic() < end, f"{group}: {left} cannot be killed"
            for pid in left:
                send(int(pid), signal.SIGKILL)
            time.sleep(0.1)
        group.rmdir()


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the ranks said, by what was done to the volume, which only they saw."""
    root = tmp_path_factory.mktemp("volumes")
    write_inputs(root)
    folder = RunFolder(root / "runs" / run_name("tiny", TRAIN)).checkpoints
    folder.mkdir(parents=True)
    with (root / "disk").open("wb") as disk:
        disk.truncate(MEBIBYTES * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", root / "disk"], check=True)
    program = Path(__file__).with_name("volumes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(random.randint(20_000, 29_000)), str(program), str(root)]
    shell = 'mount -o loop "$1" "$2" && shift 2 && exec "$@"'
    with cgroup() as group:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", shell, "sh", root / "disk", folder, *command, group],
            env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(program.parents[2])},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[:5000]
    parts = [part.splitlines() for part in done.stdout.split("== ")]
    return {" ".join([lines[0], str(number)]) if lines[0] == "as before" else lines[0]: lines[1:]
            for number, lines in enumerate(parts) if lines}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words", "remedy"),
    [
        ("full", "No space left on device", "make room"),
        ("read-only", "Read-only file system", "mount the volume read-write"),
    ],
)
def test_training_goes_on_and_a_stop_says_why(said: dict[str, list[str]], name: str, words: str, remedy: str) -> None:
    unsaved = [line for line in said[name] if line.startswith("no checkpoint: ")]
    assert len(unsaved) == 1, said[name]
    assert words in unsaved[0] and remedy in unsaved[0] and "training goes on" in unsaved[0]
    stopped = sorted(line for line in said[name] if line.startswith("rank "))
    assert [line.split(":")[0] for line in stopped] == ["rank 0 stops with code 7", "rank 1 stops with code 7"], said
    assert all(words in line and remedy in line and "submit again" in line for line in stopped)


def test_the_next_is_written_when_the_volume_is_as_before(said: dict[str, list[str]]) -> None:
    assert [said[name] for name in said if name.startswith("as before")] == [
        ["checkpoint step=3"],
        ["checkpoint step=5"],
    ]


def test_steps_are_made_while_the_volume_stands_still_and_a_stop_waits(said: dict[str, list[str]]) -> None:
    assert sorted(said["frozen"]) == [
        "checkpoint step=5",
        "checkpoint step=8",
        "rank 0 waited: True",
        "rank 0: 3 steps, writing: True, asked again: False",
        "rank 1 waited: True",
        "rank 1: 3 steps, writing: True, asked again: False",
        "step 1000: the next checkpoint waits, the one before is still being written: a slow volume",
    ]
    assert said["resumed"] == ["resumed from step-000008"]


def test_a_slow_volume_stalls_no_step_and_the_next_checkpoint_waits(said: dict[str, list[str]]) -> None:
    """The kernel lets RATE bytes a second through; without that limit this write takes a seventh of the time."""
    waits, first, measured, stop, second, third = said["slow"]
    numbers = json.loads(measured)
    assert waits.startswith("step 1000: the next checkpoint waits"), "and that is said once"
    assert numbers["wrote"] >= numbers["bytes"] / RATE / 2, "the limit acts"
    assert numbers["steps"] >= 8 and numbers["longest"] < numbers["wrote"] / 4, numbers
    begun = 9 + numbers["steps"]
    assert [first, second, third] == [f"checkpoint step={step}" for step in (9, begun, begun + 1)]
    assert stop == "a stop while writing: True"
    assert said["resumed again"] == [f"resumed from step-{begun + 1:06d}"]
