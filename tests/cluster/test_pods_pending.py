"""Runs whose pods cannot start: what holds them reaches the person, and once it is mended the run goes on by itself.

No rank is started here: a pod that runs at last finds its data missing, which its launcher says in a second.
"""

import json
import re
import signal
import time

import pytest

from kctl.backends.cluster.backend import Cluster
from kctl.run.find import look
from tests.cluster.shell import Shell
from tests.cluster.team import Team
from tests.cluster.volumes import bound_to, claim, volume
from tests.training.world import Done, ended

pytestmark = pytest.mark.timeout(900)
MISSING = {"path": "absent.jsonl"}


def _pending(team: Team, cluster: Cluster, run: str, *words: str) -> None:
    """The run stays Pending because of `words`; status and wait say so, and the next command."""

    def says() -> bool:
        view = look(cluster, run)
        return view is not None and all(word in view.sentence for word in words)

    team.until(says, f"{run} says {words}", 60)
    page = team.ok("status", run).out
    assert "Pending" in page and all(word in page for word in words)
    waited = team.kctl("wait", run, "--timeout", "1s")
    (said,) = (line for line in waited.err.splitlines() if line.startswith("error: "))
    assert waited.code == 7 and f"run {run} is still Pending after 1 s: " in said
    assert all(word in said for word in words) and said.endswith(f"it goes on, see: kctl status {run}")


def _ends_at_its_data(done: Done) -> None:
    """The launcher ran in the pod, and failed for good with the contract's code 3."""
    assert done.code == 3 and "failed (code 3): " in done.err and "no such file" in done.err, done.err


def _pods(shell: Shell, run: str) -> str:
    return shell.kubectl("get", "pods", "-l", f"training.kubeflow.org/job-name={run}", "-o", "name")


def test_an_image_that_does_not_exist(team: Team, cluster: Cluster) -> None:
    absent = re.sub(r"(@sha256:\w+|:[\w.-]+)$", "", team.image) + ":absent"
    team.profile("typo", image=absent)
    run = team.config("image", profile="typo", data=MISSING)
    waiting = team.start("submit", "image", "--wait")
    assert waiting.stderr is not None
    assert any(absent in line and "not found" in line for line in waiting.stderr), "said while it waits"
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) == 130, "Ctrl-C detaches"
    _pending(team, cluster, run, absent, "not found")
    team.profile("typo")
    refused = team.kctl("submit", "image")
    assert refused.code == 6
    assert f"run {run} is active with another manifest; first: kctl cancel {run}" in refused.err
    team.ok("cancel", run)
    resumed = team.kctl("submit", "image", "--wait")
    assert "it is created again and resumes" in resumed.err
    _ends_at_its_data(resumed)
    late = team.ok("cancel", run)
    assert f"run {run} has ended already (Failed); kctl explain {run}; then kctl submit image" in late.err
    assert late.out == "" and team.status(run)["phase"] == "Failed"


def test_a_claim_that_does_not_exist_and_then_does_not_bind(team: Team, cluster: Cluster) -> None:
    team.profile("claim", volumes={"data": {"claim": "later"}})
    run, shell = team.config("claim", profile="claim"), team.shell
    team.ok("submit", "claim")
    _pending(team, cluster, run, 'persistentvolumeclaim "later" not found')
    folder = team.volumes["data"].with_name("later")
    folder.mkdir()
    with shell.made(claim("later", "ReadWriteMany", bound_to("later", shell))):
        _pending(team, cluster, run, "unbound immediate PersistentVolumeClaims")
        with shell.made(volume("later", shell, folder)):
            _ends_at_its_data(team.kctl("wait", run))


def test_a_quota_that_is_too_small(team: Team, cluster: Cluster) -> None:
    """Without a pod to ask, the operator's own event has to tell."""
    run = team.config("quota", data=MISSING)
    with team.shell.quota("small", {"pods": "0"}):
        team.ok("submit", "quota")
        _pending(team, cluster, run, "exceeded quota: small")
        assert _pods(team.shell, run) == ""
        listed = {one["run"]: one for one in json.loads(team.ok("list", "-o", "json").out)}
        assert "exceeded quota: small" in listed[run]["sentence"]
    _ends_at_its_data(team.kctl("wait", run))


@pytest.fixture()
def nowhere(team: Team, cluster: Cluster) -> str:
    """A run that waits for a node with a label that none has."""
    team.profile("nowhere", node_selector={"kctl.dev/test": "absent"})
    run = team.config("nowhere", profile="nowhere", data=MISSING)
    team.kctl("submit", "nowhere")
    _pending(team, cluster, run, "didn't match Pod's node affinity/selector")
    return run


def test_cancelled_while_pending_no_apply_undoes_it(team: Team, nowhere: str) -> None:
    """As GitOps controllers do it: a plain apply, and a forced one on the server's side."""
    team.ok("gitops", "render", "nowhere", "-o", "git")
    looked = team.ok("logs", nowhere)
    assert looked.out == "" and "didn't match" in looked.err, "nothing was printed, and this is why"
    cancelled = team.ok("cancel", nowhere)
    assert f"{nowhere} cancelled" in cancelled.out and "next: kctl submit nowhere" in cancelled.err
    assert _pods(team.shell, nowhere) == ""
    for how in ((), ("--server-side", "--force-conflicts", "--field-manager=argocd-controller")):
        team.shell.kubectl("apply", "-k", str(team.root / "git"), *how)
        time.sleep(2)
        assert _pods(team.shell, nowhere) == "" and team.status(nowhere)["phase"] == "Cancelled"
    waited = team.kctl("wait", nowhere)
    assert waited.code == 3 and f"run {nowhere} was cancelled" in waited.err
    again = team.ok("submit", "nowhere")
    assert "it is created again and resumes" in again.err
    team.until(lambda: _pods(team.shell, nowhere), "its pod")
    team.ok("cancel", nowhere)


@pytest.mark.parametrize("second", [(), ("--set", "cluster.max_hours=3")], ids=["same", "other"])
def test_two_submits_at_the_same_moment(team: Team, cluster: Cluster, second: tuple[str, ...]) -> None:
    """One of them creates; the other has nothing to do, or is refused where it would have made another job."""
    name = f"twice-{'other' if second else 'same'}"
    team.profile("nowhere", node_selector={"kctl.dev/test": "absent"})
    run = team.config(name, profile="nowhere")
    both = [ended(one) for one in [team.start("submit", name), team.start("submit", name, *second)]]
    assert sorted(one.code for one in both) == ([0, 6] if second else [0, 0]), both
    (created,) = (one for one in both if f"{run} created" in one.out)
    (late,) = (one for one in both if one is not created)
    assert (f"first: kctl cancel {run}" if second else "is already active") in late.err and late.out == ""
    team.until(lambda: _pods(team.shell, run), "its pod")
    assert len(_pods(team.shell, run).split()) == 1
    team.ok("cancel", run)


def test_gpus_that_the_node_does_not_have_yet(team: Team, cluster: Cluster, request: pytest.FixtureRequest) -> None:
    """lora_di3 as it is shipped; its base model is the one thing that this cluster cannot have."""
    team.profile("default", gpu={"model": "H100"})
    run = team.ok("submit", "lora_di3", "-o", "name").out.strip().rpartition("/")[2]
    _pending(team, cluster, run, "Insufficient nvidia.com/gpu")
    request.getfixturevalue("gpus")
    waited = team.kctl("wait", run)
    assert waited.code == 3 and "Qwen3-30B-A3B-Instruct-2507" in waited.err and "(code 2)" in waited.err, waited.err
    assert f"next: kctl explain {run}; then kctl submit lora-di3 (resumes)" in waited.err
    limits = "jsonpath={.spec.containers[0].resources.limits.nvidia\\.com/gpu}"
    assert team.shell.kubectl("get", "pod", f"{run}-master-0", "-o", limits) == "8"
    assert "Qwen3-30B-A3B-Instruct-2507" in team.ok("logs", run).out
