"""The submit table, cell by cell."""

from typing import Any

import pytest

from kctl.backends.run_view import RunView
from kctl.errors import KctlError
from kctl.manifest import the_job
from kctl.run.submit import Decision, decide, manifest_sha256
from trainer.schema.contract import ANNOTATION_MANIFEST, Phase


def existing(phase: Phase, sha: str = "same", deleting: bool = False) -> RunView:
    return RunView("r", "c", phase, None, None, None, None, None, "", None, "", "", "u", sha, 30, deleting, ())


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.QUEUED, Phase.RUNNING, Phase.RESTARTING])
def test_active(phase: Phase) -> None:
    assert decide(existing(phase), "same") is Decision.ACTIVE
    assert decide(existing(phase), "other") is Decision.REFUSE
    assert decide(existing(phase, deleting=True), "other") is Decision.RECREATE


@pytest.mark.parametrize("sha", ["same", "other"])
def test_finished(sha: str) -> None:
    assert decide(None, sha) is Decision.CREATE
    assert decide(existing(Phase.SUCCEEDED), sha) is Decision.DONE
    assert decide(existing(Phase.FAILED), sha) is Decision.RECREATE
    assert decide(existing(Phase.CANCELLED), sha) is Decision.RECREATE


def test_every_phase_is_decided() -> None:
    assert {decide(existing(phase), "same") for phase in Phase} == {Decision.ACTIVE, Decision.DONE, Decision.RECREATE}


def test_the_digest_comes_from_the_one_job() -> None:
    job: dict[str, Any] = {"kind": "PyTorchJob", "metadata": {"name": "r", "annotations": {ANNOTATION_MANIFEST: "d"}}}
    assert manifest_sha256(the_job([{"kind": "ConfigMap"}, job])) == "d"
    for wrong in ([], [job, job]):
        with pytest.raises(KctlError):
            the_job(wrong)
    with pytest.raises(KctlError, match="render it with kctl"):
        manifest_sha256({"metadata": {"name": "r"}})
