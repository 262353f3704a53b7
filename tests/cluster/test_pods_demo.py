"""The shipped demo in a pod, as it is: a real small model learns from Shakespeare, and its adapter comes home."""

import json
import shutil
import time

import pytest

from demo.compare import MIN_FALL, read_losses
from demo.inputs import DATA, MODEL, prepare
from kctl.config.run_config import load
from tests.cluster.conftest import GIVEN, Measured
from tests.cluster.shell import ROOT
from tests.cluster.team import Team
from tests.cluster.volumes import NODE
from tests.training.world import ended
from trainer.adapters import verify_adapter

pytestmark = [
    pytest.mark.skipif(bool(GIVEN), reason="fills claims that are folders of this machine"),
    pytest.mark.timeout(1000),
]
CORES = 2
SECONDS = 300
"""From submit to Succeeded, on two cores with nothing else to do."""
WAIT_SECONDS = 840
"""On a machine that is shared."""


@pytest.fixture(scope="module")
def demo(team: Team, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The team has the demo's inputs, its config and a profile for it; the run's name."""
    root = tmp_path_factory.mktemp("inputs")
    prepare(root)
    # Copied, not linked to the cache: the kubelet changes the group of what a claim holds.
    shutil.copytree(root / "models" / MODEL, team.volumes["models"] / MODEL)
    shutil.copytree(root / "data" / DATA, team.volumes["data"] / DATA)
    config = team.root / "configs" / "demo.yaml"
    shutil.copyfile(ROOT / "configs" / "demo.yaml", config)
    # configs/clusters/cpu.yaml asks for both cores, of which the cluster's own pods have some.
    team.profile("cpu", cpu="1500m", memory="8Gi", shm="1Gi")
    return load(str(config), []).config.run


def _beside(team: Team) -> float:
    """CPU seconds that the node has spent outside of pods so far: on what shares this machine, and on Kubernetes."""
    node = json.loads(team.shell.kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/stats/summary"))["node"]
    (pods,) = (one for one in node["systemContainers"] if one["name"] == "pods")
    return float(node["cpu"]["usageCoreNanoSeconds"] - pods["cpu"]["usageCoreNanoSeconds"]) / 1e9


def test_from_submit_to_an_adapter_that_learnt(team: Team, demo: str, measured: Measured) -> None:
    begun, beside = time.monotonic(), _beside(team)
    followed = ended(team.start("submit", "demo", "--follow"), WAIT_SECONDS)
    took = time.monotonic() - begun
    lost = (_beside(team) - beside) / CORES
    assert followed.code == 0, followed.out[-3000:] + followed.err
    created, *lines = followed.out.splitlines()
    assert created == f"pytorchjob.kubeflow.org/{demo} created"
    assert lines == team.folder(demo).log(1, 0).read_text().splitlines(), "every line once, as it is on the volume"
    status, result = team.status(demo), team.result(demo)
    assert (status["phase"], status["step"], status["code"]) == ("Succeeded", result["steps"], 0)
    pulled = team.ok("pull", "demo")
    assert pulled.out == f"adapters/{demo}\n" and "sha256 checked" in pulled.err
    verify_adapter(team.root / pulled.out.strip())
    losses = read_losses(team.folder(demo).root)
    told = ", ".join(f"{name} {before:.3f} to {after:.3f}" for name, (before, after) in losses.items())
    measured(
        f"the demo in a pod: submit to Succeeded {took:.0f} s, {lost:.0f} s of both cores for others; held out: {told}"
    )
    assert all(after < before for before, after in losses.values())
    before, after = losses["answer_loss"]
    assert 1 - after / before >= MIN_FALL, "as make demo asks"
    assert took - lost <= SECONDS
