"""The reader of many runs' folders: which runs share one, and what its pod is."""

import copy
from pathlib import Path
from typing import Any

import yaml

from kctl.backends.cluster.volume_pod import by_volume, catalog_pod, reader_pod

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "manifests" / "lora_di3.yaml"


def job_of(run: str, claim: str = "runs", sub_path: str | None = None) -> dict[str, Any]:
    job: dict[str, Any] = copy.deepcopy(list(yaml.safe_load_all(GOLDEN.read_text()))[-1])
    job["metadata"] |= {"name": run, "uid": f"uid-{run}"}
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    spec = replica["template"]["spec"]
    (mount,) = (one for one in spec["containers"][0]["volumeMounts"] if one["mountPath"] == "/runs")
    if sub_path is not None:
        mount["subPath"] = sub_path
    for volume in spec["volumes"]:
        if volume["name"] == mount["name"]:
            volume["persistentVolumeClaim"]["claimName"] = claim
    return job


def test_runs_on_the_same_place_share_a_reader() -> None:
    bare = job_of("bare-00000000")
    (replica,) = bare["spec"]["pytorchReplicaSpecs"].values()
    replica["template"]["spec"]["containers"][0]["volumeMounts"] = []
    jobs = [
        job_of("a-00000000"),
        job_of("b-00000000", "other"),
        bare,
        job_of("c-00000000"),
        job_of("d-00000000", sub_path="x"),
    ]
    found = [[one["metadata"]["name"] for one in group] for group in by_volume(jobs)]
    assert found == [["a-00000000", "c-00000000"], ["b-00000000"], ["d-00000000"]]


def test_its_pod_is_a_reader_of_the_whole_volume() -> None:
    job = job_of("r" * 43 + "-00000000")
    at_work = [{"spec": {"nodeName": "n1"}}]
    catalog, reader = catalog_pod(job, at_work), reader_pod(job, at_work)
    assert (
        catalog["metadata"]["name"] == f"{job['metadata']['name']}-catalog" and len(catalog["metadata"]["name"]) <= 63
    )
    (ours,), (theirs,) = catalog["spec"]["containers"], reader["spec"]["containers"]
    assert ours["command"] == [*theirs["command"][:-1], "/runs"]
    assert ours["volumeMounts"] == theirs["volumeMounts"] and ours["volumeMounts"][0]["readOnly"] is True
    for part in ("nodeSelector", "volumes", "securityContext", "tolerations"):
        assert catalog["spec"][part] == reader["spec"][part]
    assert catalog["metadata"]["ownerReferences"] == reader["metadata"]["ownerReferences"]
