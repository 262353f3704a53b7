"""Runs that are cancelled or sent elsewhere, whose disk is full, or whose old launcher wakes up: each ends and resumes
as it should.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kctl.config.run_config import load
from tests.cluster.faults import (
    FIRST,
    LONG,
    STEPS,
    fill,
    held,
    kept,
    log,
    master,
    newest,
    reading,
    resumed_from,
    shown,
    steps,
    until_told,
)
from tests.cluster.team import Team
from tests.cluster.volumes import disk_as_claim, resize
from tests.training.world import Done, ended, frozen, send
from trainer.pod.ranks import descendants
from trainer.schema.contract import ANNOTATION_STOP, ExitCode
from trainer.schema.loading import RunFile

pytestmark = pytest.mark.timeout(600)
DISK = "disk"
"""The claim of the run whose disk is filled."""


@dataclass
class Scene:
    """A run, what was typed and how it ended, and what was noted on the way."""

    run: str
    team: Team
    done: dict[str, Done]
    noted: dict[str, Any] = field(default_factory=dict)


def cancelled(team: Team) -> Scene:
    """In mid-training, while somebody follows; then submitted again."""
    run, done = team.config("cancelled", **LONG), {}
    with reading(team, "submit", "cancelled", "--follow") as followed, held(team, run, master(run)):
        canceller = team.start("cancel", "cancelled")
        until_told(team, master(run))
    done["cancel"], done["follow"] = ended(canceller), followed.result()
    done["wait"], status = team.kctl("wait", "cancelled"), team.status(run)
    done["again"] = team.kctl("submit", "cancelled", "--follow")
    return Scene(run, team, done, {"status": status})


def annotated(team: Team) -> Scene:
    """In mid-training somebody asks the pod, by an annotation, to go elsewhere; its kubelet may take a minute."""
    run = team.config("annotated", **LONG)
    with reading(team, "submit", "annotated", "--follow") as followed, held(team, run, master(run)):
        team.shell.kubectl("annotate", "pod", master(run), f"{ANNOTATION_STOP}=now")
        until_told(team, master(run))
    return Scene(run, team, {"follow": followed.result()})


def cancelled_while_pending(team: Team) -> Scene:
    """A pod that no node has room for."""
    team.profile("huge", cpu="1000")
    run = team.config("huge", profile="huge", **LONG)
    team.ok("submit", "huge")
    team.until(lambda: "Insufficient cpu" in team.status(run)["sentence"], "the scheduler's reason is in the status")
    status, begun = team.status(run), time.monotonic()
    done = {"cancel": team.kctl("cancel", "huge")}
    seconds = time.monotonic() - begun
    return Scene(run, team, done, {"status": status, "seconds": seconds, "after": team.status(run)})


def disk_full(team: Team) -> Scene:
    """In mid-training somebody fills the runs volume; then it is made larger."""
    path = team.volumes["runs"].with_name(DISK)
    there = replace(team, volumes={**team.volumes, "runs": path})
    there.profile("disk", volumes={"runs": {"claim": DISK}})
    run, done = there.config("full", profile="disk", **LONG), {}
    with reading(there, "submit", "full", "--follow") as followed, held(there, run, master(run)):
        fill(path / "ballast")
    done["follow"], status = followed.result(), there.status(run)
    resize(path, 64)
    done["again"] = there.kctl("submit", "full", "--follow")
    return Scene(run, there, done, {"status": status})


def old_launcher_wakes(team: Team) -> Scene:
    """A process of this machine is what a pod on another node would be: its process table is not the pod's."""
    run = team.config("old", **LONG)
    said = team.root / "old.log"
    with said.open("wb") as output:
        old = subprocess.Popen(
            [sys.executable, "-m", "trainer.launch"],
            env=old_environment(team, "old"),
            stdout=output,
            stderr=subprocess.STDOUT,
            umask=0,  # another node's pod would have the user of this one
        )
    team.until_checkpoint(run, FIRST)
    asleep = [old.pid, *descendants(old.pid)]
    with frozen(asleep), reading(team, "submit", "old", "--follow") as followed:
        team.until_checkpoint(run, newest(team, run) + 8)
        with frozen(team.pids(master(run))):
            before = contents(team, run)
            for pid in asleep:
                send(pid, signal.SIGCONT)
            code = old.wait(timeout=60)
            after = contents(team, run)
    noted = {"code": code, "said": said.read_text(), "before": before, "after": after}
    return Scene(run, team, {"follow": followed.result()}, noted)


def old_environment(team: Team, config: str) -> dict[str, str]:
    """Of a launcher outside the cluster that works on the claims' folders."""
    loaded = load(str(team.root / "configs" / f"{config}.yaml"), []).config
    path, tmp = team.root / f"{config}.json", team.root / "tmp"
    path.write_text(RunFile(loaded.run, loaded.train).to_json())
    tmp.mkdir()
    volumes = {f"TRAINER_{name.upper()}": str(folder) for name, folder in team.volumes.items()}
    pod = {"TRAINER_CONFIG": str(path), "PET_NNODES": "1", "PET_NPROC_PER_NODE": "1", "DS_ACCELERATOR": "cpu"}
    return {**os.environ, **volumes, **pod, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp)}


def contents(team: Team, run: str) -> dict[str, str]:
    """sha256 of every file that the run's folder shows, but for the old launcher's own log."""
    folder = team.folder(run)
    hidden = re.compile(r"(^|/)\.")  # what is still being written, or was left so
    shown = [path for path in folder.root.rglob("*") if not hidden.search(str(path.relative_to(folder.root)))]
    files = [path for path in shown if path.is_file() and path != folder.log(1, 0)]
    return {str(path.relative_to(folder.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


SCENES: tuple[Callable[[Team], Scene], ...] = (
    old_launcher_wakes,
    disk_full,
    annotated,
    cancelled,
    cancelled_while_pending,
)
Scenes = dict[Callable[[Team], Scene], "Future[Scene]"]


@pytest.fixture(scope="module")
def disk(team: Team) -> Iterator[Path]:
    with disk_as_claim(team.shell, DISK, team.volumes["runs"].with_name(DISK), 16) as path:
        yield path


@pytest.fixture(scope="module")
def scenes(team: Team, disk: Path) -> Iterator[Scenes]:
    """All of them side by side: for most of its time each waits."""
    team.profile(memory="2Gi")
    with ThreadPoolExecutor(len(SCENES)) as stage:
        yield {scene: stage.submit(scene, team) for scene in SCENES}


def test_cancel_saves_and_submit_resumes(scenes: Scenes) -> None:
    scene = scenes[cancelled].result()
    team, run, done = scene.team, scene.run, scene.done
    assert done["cancel"].code == 0, done["cancel"].err
    assert f"{run} cancelled" in done["cancel"].out
    assert "next: kctl submit cancelled (resumes)" in done["cancel"].err
    assert scene.noted["status"]["phase"] == "Cancelled"
    for verb in ("follow", "wait"):
        assert done[verb].code == 3
        assert f"run {run} was cancelled" in done[verb].err
        assert "next: kctl submit cancelled (resumes)" in done[verb].err
    assert done["again"].code == 0, done["again"].err
    assert team.attempts(run) == [ExitCode.PREEMPTED, 0]
    assert steps(log(team, run, 2))[0] == steps(log(team, run, 1))[-1] + 1
    assert shown(done["follow"]) + shown(done["again"]) == kept(team, run)


def test_an_annotation_of_the_pod_saves_and_starts_another(scenes: Scenes) -> None:
    scene = scenes[annotated].result()
    team, run, followed = scene.team, scene.run, scene.done["follow"]
    assert followed.code == 0, followed.err
    assert team.attempts(run) == [ExitCode.PREEMPTED, 0]
    assert steps(log(team, run, 2))[0] == steps(log(team, run, 1))[-1] + 1
    assert "waiting" not in "".join(log(team, run, 2)), "neither for the owner nor for a back-off"
    assert shown(followed) == kept(team, run)


def test_cancel_while_the_pod_is_pending(scenes: Scenes) -> None:
    scene = scenes[cancelled_while_pending].result()
    assert scene.noted["status"]["phase"] == "Pending"
    assert scene.done["cancel"].code == 0, scene.done["cancel"].err
    assert f"{scene.run} cancelled" in scene.done["cancel"].out
    assert scene.noted["seconds"] < 20
    assert (scene.noted["after"]["phase"], scene.noted["after"]["pods"]) == ("Cancelled", [])


def test_a_full_disk_ends_the_run_until_there_is_room(scenes: Scenes) -> None:
    scene = scenes[disk_full].result()
    failed, again = scene.done["follow"], scene.done["again"]
    assert failed.code == 3
    assert f"run {scene.run} failed (code 7)" in failed.err
    assert "No space left on device" in failed.err and "make room" in failed.err
    assert "then kctl submit full (resumes)" in failed.err
    assert (scene.noted["status"]["phase"], scene.noted["status"]["code"]) == ("Failed", ExitCode.RUNS_FOLDER)
    assert again.code == 0, again.err
    assert scene.team.result(scene.run)["phase"] == "Succeeded"
    second = log(scene.team, scene.run, 2)
    assert resumed_from(second) >= FIRST
    assert steps(second) == list(range(resumed_from(second) + 1, STEPS + 1))


def test_an_old_launcher_that_wakes_up_publishes_nothing(scenes: Scenes) -> None:
    """Its counter stood still for 30 s, so the pod took the run over; the old one finds out and leaves."""
    scene = scenes[old_launcher_wakes].result()
    team, run = scene.team, scene.run
    assert scene.noted["code"] == ExitCode.OWNERSHIP_LOST, scene.noted["said"][-3000:]
    assert "another pod owns this run now" in scene.noted["said"]
    assert scene.noted["before"] == scene.noted["after"]
    assert scene.done["follow"].code == 0, scene.done["follow"].err
    assert "(attempt 1) stood still for 30 s: taking over" in scene.done["follow"].out
    assert team.attempts(run) == [None, 0]
    other = scenes[cancelled].result()
    assert team.losses(run) == pytest.approx(team.losses(other.run), rel=1e-6), "another PyTorch, the same numbers"
