"""kctl explain on runs in real trouble: what is wrong is made by real objects, and it names it first."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kctl.backends.cluster.backend import Cluster
from kctl.explain.table import explained
from tests.cluster.explain_scenes import Scene, freed, scenes, staged
from tests.cluster.faults import LONG, evict, fill, held, kill, launcher, master
from tests.cluster.jobs import OTHER_MANAGER, job
from tests.cluster.shell import Shell
from tests.cluster.team import Team
from tests.cluster.volumes import disk_as_claim
from tests.unit.explain_sources import WAITING
from trainer.schema.contract import Phase

pytestmark = pytest.mark.timeout(900)
MISSING = {"path": "absent.jsonl"}
SMALL = {"cpu": "10m", "memory": "256Mi"}
"""So that the node has room for all of them: none waits for what another one takes."""
BESIDE = {"pull-secret-absent"}
"""What alone keeps nobody waiting: told beside another cause."""


def _names(cluster: Cluster, run: str) -> list[str]:
    facts = cluster.facts(run)
    return [] if facts is None else [one.name for one in explained(facts, "", "")]


def _until(team: Team, cluster: Cluster, run: str, cause: str, seconds: float = 120) -> None:
    """It is named first, by the command too, and what status says of the run is part of the page."""

    def said() -> bool:
        names = _names(cluster, run)
        return cause in names if cause in BESIDE else names[:1] == [cause]

    try:
        team.until(said, f"{run}: {cause}", seconds)
    except AssertionError as error:
        raise AssertionError(f"{run}: {_names(cluster, run)}, not {cause}\n{error}") from None
    page, status = team.ok("explain", run).out, team.status(run)
    assert f"[{cause}]" in page and f"{run} is {status['phase']}" in page and "Next:" in page
    told = json.loads(team.ok("explain", run, "-o", "json").out)
    assert cause in [one["name"] for one in told["causes"]] and told["phase"] == status["phase"]


@pytest.fixture(scope="module")
def waiting(team: Team, rootly: str) -> Iterator[dict[str, str]]:
    """Cause -> its run. All of them at once: each waits for something of its own."""
    staging = scenes(team, rootly)
    assert sorted(staging) == sorted(WAITING)

    def submitted(cause: str, scene: Scene) -> str:
        team.profile(cause, **SMALL, **scene.profile)
        run = team.config(cause, profile=cause, data=MISSING)
        team.ok("submit", cause)
        scene.then(team, run)
        return run

    with staged(team, staging), ThreadPoolExecutor(4) as pool:
        yield dict(zip(staging, pool.map(submitted, staging, staging.values()), strict=True))


@pytest.mark.parametrize("cause", WAITING)
def test_why_a_run_waits(team: Team, cluster: Cluster, waiting: dict[str, str], cause: str) -> None:
    _until(team, cluster, waiting[cause], cause)


# ----------------------------------------------------------------------------------------------------------------------
# what would hold the others, too


def test_a_quota_that_is_used_up(team: Team, cluster: Cluster) -> None:
    run = team.config("quota", data=MISSING)
    with team.shell.quota("small", {"pods": "0"}):
        team.ok("submit", "quota")
        _until(team, cluster, run, "quota")
    assert team.kctl("wait", run).code == 3, "once there is room it runs, and finds no data"
    _until(team, cluster, run, "data-absent")


def test_a_quota_that_wants_more_to_be_said(team: Team, cluster: Cluster) -> None:
    run = team.config("unstated", data=MISSING)
    with team.shell.quota("limits", {"limits.cpu": "100"}):
        team.ok("submit", "unstated")
        _until(team, cluster, run, "quota-unstated")
    team.ok("cancel", run)


def test_a_limit_range(team: Team, cluster: Cluster) -> None:
    run = team.config("limited", data=MISSING)
    limit = {"type": "Container", "max": {"memory": "1Gi"}}
    limits = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": [limit]}}
    with team.shell.made(limits):
        team.ok("submit", "limited")
        _until(team, cluster, run, "limit-range")
    team.ok("cancel", run)


def test_a_job_that_another_controller_should_manage(shell: Shell, team: Team, cluster: Cluster) -> None:
    made = job("managed-12345678")
    assert made["spec"]["runPolicy"]["managedBy"] == OTHER_MANAGER
    with shell.made(made):
        _until(team, cluster, "managed-12345678", "managed-elsewhere")


# ----------------------------------------------------------------------------------------------------------------------
# what ran


def test_a_model_that_is_not_there(team: Team, cluster: Cluster) -> None:
    run = team.config("model", model={"path": "no-such-model"})
    assert team.kctl("submit", "model", "--wait").code == 3
    _until(team, cluster, run, "model-absent")


def test_an_image_of_somebody_else(team: Team, cluster: Cluster, busybox: str) -> None:
    """It has no tini: the container cannot start, and the operator tries again and again."""
    team.profile("other", image=busybox)
    run = team.config("other", profile="other", data=MISSING)
    team.ok("submit", "other")
    try:
        team.until(lambda: "not-the-image" in _names(cluster, run), f"{run}: not-the-image", 120)
    finally:
        team.ok("cancel", run)


def test_it_trains_is_killed_and_is_evicted(team: Team, cluster: Cluster) -> None:
    team.profile(memory="2Gi")
    run = team.config("trains", **LONG)
    team.ok("submit", "trains")
    with held(team, run, master(run)):
        _until(team, cluster, run, "training")
        kill(launcher(team, master(run)))
    team.until(lambda: _names(cluster, run)[:1] == ["restarted"], f"{run} was killed and goes on")
    with held(team, run, master(run), step=12):
        evict(team, master(run))
        team.until(lambda: _names(cluster, run)[:1] == ["drained"], f"{run} is evicted")
    assert team.status(run)["phase"] in (Phase.RUNNING, Phase.RESTARTING, Phase.PENDING)
    team.ok("cancel", run)


def test_a_full_volume(team: Team, cluster: Cluster) -> None:
    """The last of this module: a disk goes with all jobs of the namespace."""
    freed(team.shell)
    with disk_as_claim(team.shell, "full", team.volumes["runs"].with_name("full"), 1) as path:
        fill(path / "ballast")
        team.profile("full", volumes={"runs": {"claim": "full"}})
        run = team.config("full", profile="full")
        assert team.kctl("submit", "full", "--wait").code == 3
        _until(team, cluster, run, "volume-full")
