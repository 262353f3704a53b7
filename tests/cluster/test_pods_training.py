"""A run in pods, from submit to the adapter, on one node and on two, as a person does it, with the real operator."""

import json
import time

import pytest
import yaml

from tests.cluster.conftest import Measured
from tests.cluster.team import Team
from trainer.adapters import verify_adapter

pytestmark = pytest.mark.timeout(900)


def test_one_node_from_submit_to_the_adapter(team: Team, measured: Measured) -> None:
    run = team.config("one", ranks=2, epochs=2, evaluation={"per_epoch": 1})
    begun = time.monotonic()
    followed = team.kctl("submit", "one", "--follow")
    assert followed.code == 0, followed.err
    measured(f"submit to Succeeded: {time.monotonic() - begun:.0f} s")
    assert "torch " in followed.out and f"step={team.result(run)['steps']}/" in followed.out
    kept = team.folder(run).log(1, 0).read_text().splitlines()
    created, *lines = followed.out.splitlines()
    assert created == f"pytorchjob.kubeflow.org/{run} created"
    assert lines == kept, "every line once, as it is on the volume"
    status = team.status(run)
    assert (status["phase"], status["step"], status["code"]) == ("Succeeded", team.result(run)["steps"], 0)
    pulled = team.ok("pull", "one")
    verify_adapter(team.root / pulled.out.strip())
    again = team.ok("submit", "one")
    assert "has succeeded already" in again.err


def test_two_nodes_find_each_other_and_share_the_step(team: Team) -> None:
    run = team.config("two", nodes=2, epochs=2)
    alone = team.config("alone", ranks=2, seed=42, epochs=2)
    followed = team.kctl("submit", "two", "--follow")
    assert followed.code == 0, followed.err
    assert team.result(run)["ranks"] == 2
    lines = followed.out.splitlines()
    assert any(line.startswith("worker-0 | step=") for line in lines)
    for node in (0, 1):
        kept = team.folder(run).log(1, node).read_text().splitlines()
        assert [line.partition(" | ")[2] for line in lines if line.startswith(f"worker-{node} | ")] == kept
    team.ok("submit", "alone", "--wait")
    assert team.losses(alone) == pytest.approx(team.losses(run), rel=1e-6), "two pods or two ranks of one: the same"


def test_a_rendered_run_applied_with_kubectl_is_like_a_submitted_one(team: Team) -> None:
    run = team.config("rendered")
    added, path = team.ok("gitops", "render", "rendered", "-o", "git").out.split()
    assert added == "added"
    team.shell.kubectl("apply", "-k", str(team.root / "git"))
    waited = team.kctl("wait", "rendered")
    assert waited.code == 0, waited.err
    assert team.status("rendered")["run"] == run
    assert "step=" in team.ok("logs", "rendered").out
    verify_adapter(team.root / team.ok("pull", "rendered", "--to", "elsewhere").out.strip())
    (job,) = (one for one in yaml.safe_load_all((team.root / path).read_text()) if one["kind"] == "PyTorchJob")
    assert job["metadata"]["name"] == run
    # Applied again after its end, as a GitOps controller does: nothing is trained again.
    seconds = team.result(run)["seconds"]
    team.shell.kubectl("delete", "pytorchjob", run, "--timeout=60s")
    team.shell.kubectl("apply", "-k", str(team.root / "git"))
    assert team.kctl("wait", run).code == 0
    assert "has succeeded already" in team.status(run)["sentence"] and team.result(run)["seconds"] == seconds
    assert len(json.loads(team.folder(run).attempts.read_bytes())) == 1
