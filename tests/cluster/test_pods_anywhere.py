"""A run on claims that nobody looks into from outside: on every cluster, also one of the user's ($KUBECONFIG)."""

import contextlib
from pathlib import Path

import pytest

from tests.cluster.conftest import GIVEN, RUN
from tests.cluster.shell import Shell
from tests.cluster.team import Team
from tests.cluster.volumes import claims_of_the_default_class, folders_as_volumes
from trainer.adapters import verify_adapter

pytestmark = pytest.mark.timeout(900)


def test_from_empty_claims_to_the_adapter(
    restricted: Shell, trainer_image: str, base_model: Path, tmp_path: Path
) -> None:
    storage = contextlib.nullcontext() if GIVEN else folders_as_volumes(restricted, RUN / "volumes")
    with storage, claims_of_the_default_class(restricted):
        team = Team(restricted, tmp_path, {}, trainer_image)
        team.profile()
        for volume, name in (("models", "dense"), ("data", "train.jsonl"), ("data", "held.jsonl")):
            assert team.ok("push", str(base_model / name), "--to", volume).out == f"{volume}/{name}\n"
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
