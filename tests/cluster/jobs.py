"""Small manifests for the tests beside this file, in the shape that kctl renders."""

from typing import Any

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def config_map(name: str, text: str = "{}") -> dict[str, Any]:
    """An immutable ConfigMap with one file."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "immutable": True,
        "data": {"config.json": text},
    }


def job(run: str, **labels: str) -> dict[str, Any]:
    """A PyTorchJob with one Master."""
    container = {"name": "pytorch", "image": "localhost:5000/trainer:test", "securityContext": RESTRICTED}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": run,
            "labels": {"kctl.dev/run": run, "kctl.dev/config": run.rpartition("-")[0], **labels},
            "annotations": {"kctl.dev/manifest-sha256": "0" * 64},
        },
        "spec": {
            "nprocPerNode": "1",
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {
                "Master": {
                    "replicas": 1,
                    "restartPolicy": "ExitCode",
                    "template": {"spec": {"containers": [container]}},
                }
            },
        },
    }


def pod(name: str, run: str, owner_uid: str | None = None, node: str | None = None) -> dict[str, Any]:
    """A pod as the operator makes it for a Master, bound to `node` where one is named."""
    metadata: dict[str, Any] = {
        "name": name,
        "labels": {
            "training.kubeflow.org/job-name": run,
            "training.kubeflow.org/replica-type": "master",
            "training.kubeflow.org/replica-index": "0",
        },
    }
    if owner_uid is not None:
        owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": run, "uid": owner_uid}
        metadata["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": True}]
    container = {"name": "pytorch", "image": "localhost:5000/trainer:test", "securityContext": RESTRICTED}
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 1}
    if node is not None:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
