"""One writer a run folder, with real processes: races, suspended owners, killed ones, and living ones."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.launch_world import ROOT, wait_for
from trainer.errors import OwnershipLost, RunsFolderError
from trainer.pod.ownership import Owner, Timing, acquire, process_gone, read_owner, start_ticks, still_owner, this_host
from trainer.schema.contract import RunFolder

FAST = Timing(beat=0.05, still=0.8, patience=1.6, pause=0.02)

HOLD = """
import pathlib, sys, time
from trainer.pod.ownership import Timing, acquire
from trainer.schema.contract import RunFolder
held = acquire(RunFolder(pathlib.Path(sys.argv[1])), sys.argv[2], str, Timing(0.05, 0.8, 30.0, 0.4))
begin = time.monotonic()
print("owns", flush=True)
time.sleep(float(sys.argv[3]))
held.check()
print(begin, time.monotonic(), held.owner.attempt, flush=True)
held.release()
"""

ELSEWHERE = Owner("pod-a", 4, 17, "node-7 boot pid:[1]", 1, 1)


def hold(folder: Path, uid: str, seconds: float) -> "subprocess.Popen[str]":
    """A process that owns `folder` as pod `uid` for `seconds`."""
    command = [sys.executable, "-c", HOLD, str(folder), uid, str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = hold(tmp_path, "pod-a", 60)
    assert process.stdout is not None and process.stdout.readline() == "owns\n"
    yield process
    process.kill()
    process.communicate()


def test_of_many_that_start_at_once_one_owns_at_a_time(tmp_path: Path) -> None:
    processes = [hold(tmp_path, f"pod-{number}", 0.1) for number in range(4)]
    lives = []
    for process in processes:
        output, errors = process.communicate(timeout=40)
        assert process.returncode == 0, errors
        lives.append([float(number) for number in output.split()[1:]])
    lives.sort()
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(lives))
    assert sorted(life[2] for life in lives) == [1, 2, 3, 4]


def test_a_suspended_owner_finds_that_it_is_owner_no_more(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    folder = RunFolder(tmp_path)
    old = read_owner(folder)
    assert old is not None and still_owner(folder, old.token)
    holder.send_signal(signal.SIGSTOP)
    said: list[str] = []
    began = time.monotonic()
    held = acquire(folder, "pod-b", said.append, FAST)
    assert time.monotonic() - began >= FAST.still, "its process is there: only the counter can tell"
    assert held.owner.attempt == old.attempt + 1
    holder.send_signal(signal.SIGCONT)
    time.sleep(0.3)  # several beats of the old owner, which must not write any more
    assert not still_owner(folder, old.token) and still_owner(folder, held.owner.token)
    assert not held.lost
    held.release()
    assert any("stood still" in line for line in said)


def test_a_killed_owner_of_this_host_is_followed_at_once(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    began = time.monotonic()
    acquire(RunFolder(tmp_path), "pod-b", print, FAST).release()
    assert time.monotonic() - began < FAST.still / 2


def test_a_zombie_is_gone_too(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    owner = read_owner(RunFolder(tmp_path))
    assert owner is not None
    wait_for(lambda: process_gone(owner))
    assert Path(f"/proc/{holder.pid}").exists()


def test_a_living_owner_is_not_robbed(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(RunsFolderError, match=r"belongs to pod pod-a .* alive .*: cancel that run first"):
        acquire(RunFolder(tmp_path), "pod-b", print, FAST)
    assert holder.poll() is None


def test_an_owner_elsewhere_must_stand_still(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.owner.write_text(json.dumps(asdict(ELSEWHERE)))
    began = time.monotonic()
    held = acquire(folder, "pod-b", print, FAST)
    assert time.monotonic() - began >= FAST.still
    assert held.owner.attempt == 5 and held.lasted == pytest.approx(17 * FAST.beat)
    held.release()
    assert not still_owner(folder, held.owner.token), "released is owner no more"


def test_a_released_run_is_free_at_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.owner.write_text(json.dumps(asdict(replace(ELSEWHERE, released=True))))
    began = time.monotonic()
    acquire(folder, "pod-b", print, FAST).release()
    assert time.monotonic() - began < FAST.still / 2


def test_an_owner_that_is_robbed_notices(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    held = acquire(folder, "pod-a", print, FAST)
    folder.owner.write_text(json.dumps(asdict(ELSEWHERE)))
    wait_for(lambda: held.lost)
    with pytest.raises(OwnershipLost):
        held.release()
    assert read_owner(folder) == ELSEWHERE


def test_the_counter_moves(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    held = acquire(folder, "pod-a", print, FAST)
    wait_for(lambda: (owner := read_owner(folder)) is not None and owner.counter >= 3)
    held.release()


def test_a_pid_used_again_is_another_process() -> None:
    mine = Owner("p", 1, 0, this_host(), os.getpid(), start_ticks(os.getpid()))
    assert not process_gone(mine)
    assert process_gone(replace(mine, started=mine.started - 1))
    assert not process_gone(replace(mine, host="another", pid=2**22 - 1))


def test_whatever_stands_in_owner_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    field = st.none() | st.integers(-5, 5) | st.text(max_size=3) | st.booleans() | st.lists(st.integers(), max_size=1)
    owners = st.fixed_dictionaries(dict.fromkeys(asdict(ELSEWHERE), field))

    @settings(max_examples=100)
    @given(content=st.binary(max_size=30) | st.builds(json.dumps, owners | field).map(str.encode))
    def check(content: bytes) -> None:
        folder.owner.write_bytes(content)
        owner = read_owner(folder)
        assert owner is None or not process_gone(owner)
        assert still_owner(folder, "{}") is False

    check()
    folder.owner.unlink()
    folder.owner.mkdir()
    with pytest.raises(RunsFolderError, match=r"owner\.json: Is a directory"):
        read_owner(folder)
