"""Processes and pods of a running training are killed, deleted and evicted: each run goes on and computes the same."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.faults import (
    LONG,
    held,
    kept,
    kill,
    launcher,
    log,
    master,
    newest,
    reading,
    resumed_from,
    steps,
    until_told,
)
from tests.cluster.team import Team
from tests.training.world import Done
from trainer.schema.contract import ExitCode

pytestmark = pytest.mark.timeout(600)
STEPS = 120
LIMIT_MIB = 64
"""Of the ephemeral storage of the pod that the kubelet evicts."""


@dataclass
class Scene:
    """A run, how `kctl submit --follow` ended that ran through all of it, and what was noted on the way."""

    run: str
    followed: Done
    noted: dict[str, Any] = field(default_factory=dict)


def undisturbed(team: Team) -> Scene:
    run = team.config("whole", **LONG)
    return Scene(run, team.kctl("submit", "whole", "--follow"))


def rank_killed(team: Team) -> Scene:
    run = team.config("rank", **LONG)
    with reading(team, "submit", "rank", "--follow") as followed:
        with held(team, run, master(run)) as ranks:
            kill(*ranks)
    return Scene(run, followed.result())


def launcher_killed(team: Team) -> Scene:
    run = team.config("launcher", **LONG)
    with reading(team, "submit", "launcher", "--follow") as followed:
        with held(team, run, master(run)):
            kill(launcher(team, master(run)))
    return Scene(run, followed.result())


def pod_deleted_and_evicted(team: Team) -> Scene:
    """kubectl delete, then the Eviction API, then the kubelet because of a full disk."""
    limits = {"ephemeral-storage": f"{LIMIT_MIB}Mi"}
    team.profile("limited", pod_patch={"containers": [{"name": "pytorch", "resources": {"limits": limits}}]})
    run = team.config("away", profile="limited", **LONG)
    pod, noted = master(run), {}
    with reading(team, "submit", "away", "--follow") as followed:
        with held(team, run, pod):
            team.shell.kubectl("delete", "pod", pod, "--wait=false")
            until_told(team, pod)
        with held(team, run, pod, step=newest(team, run) + 8):
            evict(team, pod)
            until_told(team, pod)
        with held(team, run, pod, step=newest(team, run) + 8):
            uid = uid_of(team, pod)
            tmp = Path(f"/proc/{launcher(team, pod)}/root/tmp")
            (tmp / "too-much").write_bytes(bytes((LIMIT_MIB + 32) << 20))
            team.until(lambda: uid_of(team, pod) != uid, "the kubelet evicts the pod")
    return Scene(run, followed.result(), noted)


def one_pod_of_two_deleted(team: Team) -> Scene:
    run = team.config("pair", nodes=2, **LONG)
    pods = [f"{run}-worker-0", f"{run}-worker-1"]
    with reading(team, "submit", "pair", "--follow") as followed:
        with held(team, run, *pods):
            team.shell.kubectl("delete", "pod", pods[1], "--wait=false")
            until_told(team, pods[1])
    return Scene(run, followed.result())


def evict(team: Team, pod: str) -> None:
    """What `kubectl drain` asks for."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{team.shell.namespace}/pods/{pod}/eviction"
    team.shell.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


def uid_of(team: Team, pod: str) -> str:
    return team.shell.kubectl("get", "pod", pod, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")


SCENES: tuple[Callable[[Team], Scene], ...] = (
    pod_deleted_and_evicted,
    launcher_killed,
    one_pod_of_two_deleted,
    rank_killed,
    undisturbed,
)
"""The longest first."""


@pytest.fixture(scope="module")
def scenes(team: Team) -> Iterator[dict[Callable[[Team], Scene], "Future[Scene]"]]:
    """All of them side by side: for most of its time each waits."""
    with ThreadPoolExecutor(len(SCENES)) as stage:
        yield {scene: stage.submit(scene, team) for scene in SCENES}
