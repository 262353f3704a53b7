"""The pod of a merge or a generation: the run's own template with another command."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kctl.backends.cluster.work_pod import WITHOUT_RANKS, work_pod
from kctl.backends.protocol import Work

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "manifests"
MERGE = Work("merge", "trainer.merge", ("run-1", "--last"))
ASK = Work("generate", "trainer.generate", ("run-1",), ranks=True)


def job_of(name: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text())
    (job,) = (one for one in documents if one["kind"] == "PyTorchJob")
    job["metadata"]["uid"] = "u-1"
    return job


@pytest.mark.parametrize("name", [path.stem for path in GOLDEN.glob("*.yaml")])
def test_it_has_what_the_runs_pods_have(name: str) -> None:
    job = job_of(name)
    template = next(iter(job["spec"]["pytorchReplicaSpecs"].values()))["template"]
    for work in (MERGE, ASK):
        pod = work_pod(job, work)
        assert pod["metadata"]["name"] == f"{job['metadata']['name']}-{work.role}"
        assert pod["metadata"]["ownerReferences"][0]["uid"] == "u-1"
        queue = {key: value for key, value in job["metadata"]["labels"].items() if "queue" in key}
        assert queue.items() <= pod["metadata"]["labels"].items()
        assert {**pod["spec"], "restartPolicy": None, "containers": None} == {
            **template["spec"],
            "restartPolicy": None,
            "containers": None,
        }
        assert pod["spec"]["restartPolicy"] == "Never"
        (ours,), (theirs, *_) = pod["spec"]["containers"], template["spec"]["containers"]
        assert ours["command"][:3] == ["tini", "--", "python"] and ours["command"][-1] == work.words[-1]
        assert not [entry for entry in ours["env"] if entry["name"].startswith("PET_")]
        assert ours["resources"] == (theirs["resources"] if work.ranks else WITHOUT_RANKS)
        for part in ("image", "volumeMounts", "securityContext"):
            assert ours[part] == theirs[part]


def test_the_job_is_left_as_it_is() -> None:
    job = job_of("lora_di3")
    work_pod(job, ASK)["spec"]["containers"][0]["env"].clear()
    assert job == job_of("lora_di3")
    assert "--nproc-per-node=8" in work_pod(job, ASK)["spec"]["containers"][0]["command"]
