"""A run on claims that nobody looks into from outside: on every cluster, also one of the user's ($KUBECONFIG)."""

import contextlib
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import GIVEN, RUN
from tests.cluster.shell import ROOT, Shell
from tests.cluster.team import Team
from tests.cluster.volumes import claims_of_the_default_class, folders_as_volumes
from trainer.adapters import verify_adapter

pytestmark = pytest.mark.timeout(900)


def _fill(team: Team, base_model: Path) -> None:
    """Models and data onto the claims, by the pod that README's quickstart takes."""
    shell = team.shell
    loader = yaml.safe_load((ROOT / "k8s" / "loader.yaml").read_text())
    loader["metadata"]["namespace"] = shell.namespace
    loader["spec"]["containers"][0]["image"] = team.image
    shell.kubectl("create", "-f", "-", stdin=yaml.safe_dump(loader))
    phase = ("get", "pod", "loader", "-o", "jsonpath={.status.phase}")
    team.until(lambda: shell.kubectl(*phase) == "Running", "the image is pulled, the loader runs", 600)
    for claim, name in (("models", "dense"), ("data", "train.jsonl"), ("data", "held.jsonl")):
        packed = subprocess.run(["tar", "-C", base_model, "-c", name], capture_output=True, check=True).stdout
        unpack = [shell.kubectl_path, "-n", shell.namespace, "exec", "-i", "loader", "--", "tar", "-xmC", f"/{claim}"]
        subprocess.run(unpack, input=packed, env=shell.environment, check=True, timeout=100)
    shell.kubectl("delete", "pod", "loader")


def test_from_empty_claims_to_the_adapter(
    restricted: Shell, trainer_image: str, base_model: Path, tmp_path: Path
) -> None:
    storage = contextlib.nullcontext() if GIVEN else folders_as_volumes(restricted, RUN / "volumes")
    with storage, claims_of_the_default_class(restricted):
        team = Team(restricted, tmp_path, {}, trainer_image)
        _fill(team, base_model)
        team.profile()
        run = team.config("anywhere", epochs=1)
        followed = team.ok("submit", "anywhere", "--follow")
        status = team.status(run)
        assert status["phase"] == "Succeeded" and f"step={status['steps']}/{status['steps']} " in followed.out
        assert followed.out.splitlines()[1:] == team.ok("logs", run).out.splitlines()
        verify_adapter(team.root / team.ok("pull", "anywhere").out.strip())
        team.shell.kubectl("delete", "pods", "-l", f"training.kubeflow.org/job-name={run}")
        assert "step=" in team.ok("logs", run).out, "from the volume"
        deleted = team.ok("delete", run, "--outputs", "--yes")
        assert f"{run} deleted with its outputs" in deleted.out
        restricted.kubectl("delete", "pods,pvc", "--all", "--timeout=50s")
