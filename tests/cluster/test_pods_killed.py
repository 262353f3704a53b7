"""Processes and pods of a running training are killed, deleted and evicted: each run goes on and computes the same."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.cluster.faults import (
    FIRST,
    LONG,
    STEPS,
    evict,
    held,
    kept,
    kill,
    launcher,
    log,
    master,
    newest,
    reading,
    resumed_from,
    shown,
    steps,
    tmp_of,
    until_told,
)
from tests.cluster.team import Team
from tests.training.world import Done
from trainer.schema.contract import ExitCode

pytestmark = pytest.mark.timeout(600)
LIMIT_MIB = 64
"""Of the ephemeral storage of the pod that the kubelet evicts."""


@dataclass
class Scene:
    """A run and how `kctl submit --follow` ended that ran through all of it."""

    run: str
    followed: Done
    seconds: float = 0.0
    """From the SIGTERM of a pod to the end of all."""


def undisturbed(team: Team) -> Scene:
    run = team.config("whole", **LONG)
    return Scene(run, team.kctl("submit", "whole", "--follow"))


def rank_killed(team: Team) -> Scene:
    run = team.config("rank", **LONG)
    with reading(team, "submit", "rank", "--follow") as followed, held(team, run, master(run)) as ranks:
        kill(*ranks)
    return Scene(run, followed.result())


def launcher_killed(team: Team) -> Scene:
    run = team.config("launcher", **LONG)
    with reading(team, "submit", "launcher", "--follow") as followed, held(team, run, master(run)):
        kill(launcher(team, master(run)))
    return Scene(run, followed.result())


def pod_deleted_and_evicted(team: Team) -> Scene:
    """By kubectl, then through the Eviction API."""
    run = team.config("away", **LONG)
    pod = master(run)
    with reading(team, "submit", "away", "--follow") as followed:
        with held(team, run, pod):
            team.shell.kubectl("delete", "pod", pod, "--wait=false")
            until_told(team, pod)
        with held(team, run, pod, step=newest(team, run) + 8):
            evict(team, pod)
            until_told(team, pod)
    return Scene(run, followed.result())


def evicted_by_the_kubelet(team: Team) -> Scene:
    """The pod uses more of its node's disk than it may."""
    limits = {"ephemeral-storage": f"{LIMIT_MIB}Mi"}
    patch = {"containers": [{"name": "pytorch", "resources": {"limits": limits}}]}
    team.profile("limited", memory="2Gi", pod_patch=patch)
    run = team.config("greedy", profile="limited", **LONG)
    pod = master(run)
    with reading(team, "submit", "greedy", "--follow") as followed, held(team, run, pod):
        uid = uid_of(team, pod)
        (tmp_of(team, pod) / "too-much").write_bytes(bytes((LIMIT_MIB + 32) << 20))
        team.until(lambda: uid_of(team, pod) != uid, "the kubelet evicts the pod")
    return Scene(run, followed.result())


def one_pod_of_two_deleted(team: Team) -> Scene:
    run = team.config("pair", nodes=2, **LONG)
    pods = [f"{run}-worker-0", f"{run}-worker-1"]
    with reading(team, "submit", "pair", "--follow") as followed:
        with held(team, run, *pods):
            team.shell.kubectl("delete", "pod", pods[1], "--wait=false")
            until_told(team, pods[1])
        told = time.monotonic()
        team.until(lambda: team.attempts(run)[:1] == [ExitCode.PREEMPTED], "both have saved and ended")
        seconds = time.monotonic() - told
    return Scene(run, followed.result(), seconds)


def uid_of(team: Team, pod: str) -> str:
    return team.shell.kubectl("get", "pod", pod, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")


SCENES: tuple[Callable[[Team], Scene], ...] = (
    pod_deleted_and_evicted,
    launcher_killed,
    one_pod_of_two_deleted,
    evicted_by_the_kubelet,
    rank_killed,
    undisturbed,
)
"""The longest first."""


@pytest.fixture(scope="module")
def scenes(team: Team) -> Iterator[dict[Callable[[Team], Scene], "Future[Scene]"]]:
    """All of them side by side: for most of its time each waits."""
    team.profile(memory="2Gi")
    with ThreadPoolExecutor(len(SCENES)) as stage:
        yield {scene: stage.submit(scene, team) for scene in SCENES}


Scenes = dict[Callable[[Team], Scene], "Future[Scene]"]


def seen(team: Team, scenes: Scenes, name: Callable[[Team], Scene]) -> Scene:
    """A scene that ended well: the follower shows every line of every attempt once, every step is on record once."""
    scene = scenes[name].result()
    run, followed = scene.run, scene.followed
    assert followed.code == 0, followed.err
    assert f"run {run} succeeded; kctl pull {run}" in followed.err
    records = [json.loads(line) for line in team.folder(run).metrics.read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == list(range(1, STEPS + 1))
    return scene


def same_as_undisturbed(team: Team, scenes: Scenes, scene: Scene) -> None:
    """To the bit."""
    assert team.losses(scene.run) == team.losses(scenes[undisturbed].result().run)
    assert shown(scene.followed) == kept(team, scene.run), "every line once, as it is on the volume"


def goes_on(team: Team, run: str, attempt: int) -> list[str]:
    """The lines of an attempt that begins with the step after its checkpoint."""
    lines = log(team, run, attempt)
    assert resumed_from(lines) >= FIRST
    assert steps(lines)[0] == resumed_from(lines) + 1
    return lines


def test_nothing_happens(team: Team, scenes: Scenes) -> None:
    scene = seen(team, scenes, undisturbed)
    same_as_undisturbed(team, scenes, scene)
    assert team.attempts(scene.run) == [0]


def test_a_rank_is_killed(team: Team, scenes: Scenes) -> None:
    scene = seen(team, scenes, rank_killed)
    same_as_undisturbed(team, scenes, scene)
    assert team.attempts(scene.run) == [ExitCode.UNKNOWN, 0]
    last = log(team, scene.run, 1)[-1]
    assert last.startswith("Restarting: a rank ended without a word (killed? out of host memory?)")
    assert "the attempt before failed: waiting 10 s" in goes_on(team, scene.run, 2)


def test_the_launcher_is_killed(team: Team, scenes: Scenes) -> None:
    """With it the container ends, 137, and nobody is left to say why."""
    scene = seen(team, scenes, launcher_killed)
    same_as_undisturbed(team, scenes, scene)
    assert team.attempts(scene.run) == [None, 0]
    assert "the attempt before failed: waiting 10 s" in goes_on(team, scene.run, 2)


def test_a_pod_is_deleted_then_evicted(team: Team, scenes: Scenes) -> None:
    """Told to stop, it saves; the next pod goes on with the very next step and does not wait."""
    scene = seen(team, scenes, pod_deleted_and_evicted)
    same_as_undisturbed(team, scenes, scene)
    run = scene.run
    assert team.attempts(run) == [ExitCode.PREEMPTED, ExitCode.PREEMPTED, 0]
    for attempt in (1, 2):
        assert log(team, run, attempt)[-1].startswith(
            f"Restarting: stopped at step {resumed_from(log(team, run, attempt + 1))} as asked"
        )
        following = goes_on(team, run, attempt + 1)
        assert steps(following)[0] == steps(log(team, run, attempt))[-1] + 1
        assert not any("waiting" in line for line in following)


def test_the_kubelet_evicts_a_pod(team: Team, scenes: Scenes) -> None:
    """It gives a second, which is too short to save: the run goes on from its checkpoint."""
    scene = seen(team, scenes, evicted_by_the_kubelet)
    same_as_undisturbed(team, scenes, scene)
    assert team.attempts(scene.run)[-1] == 0
    goes_on(team, scene.run, 2)


def test_one_pod_of_two_is_deleted(team: Team, scenes: Scenes) -> None:
    """The other one cannot go on alone: both save, end and come back."""
    scene = seen(team, scenes, one_pod_of_two_deleted)
    assert team.attempts(scene.run) == [ExitCode.PREEMPTED, 0]
    assert scene.seconds < 20, "from SIGTERM to the end, beside all other scenes"
    goes_on(team, scene.run, 2)
    lines = shown(scene.followed)
    for node in (0, 1):
        of_node = [line.partition(" | ")[2] for line in lines if line.startswith(f"worker-{node} | ")]
        assert of_node == kept(team, scene.run, node)
