"""Small manifests for the tests beside this file, in the shape that kctl renders."""

from typing import Any

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}

OTHER_MANAGER = "kueue.x-k8s.io/multikueue"


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
    """A PyTorchJob with one Master, whose operator's part the test plays."""
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
            # The real operator leaves alone what another manager has; of names its webhook accepts this one.
            "runPolicy": {"cleanPodPolicy": "Running", "managedBy": OTHER_MANAGER},
            "pytorchReplicaSpecs": {
                "Master": {
                    "replicas": 1,
                    "restartPolicy": "ExitCode",
                    "template": {"spec": {"containers": [container]}},
                }
            },
        },
    }


def shell_job(run: str, image: str, script: str, workers: int = 0, **container: Any) -> dict[str, Any]:
    """A PyTorchJob for the real operator: a Master or so many Workers, each of which runs a shell script."""
    index = {"fieldPath": "metadata.labels['training.kubeflow.org/replica-index']"}
    pytorch = {
        "name": "pytorch",
        "image": image,
        "command": ["sh", "-c", script],
        "env": [{"name": "INDEX", "valueFrom": {"fieldRef": index}}],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "runs", "mountPath": "/runs"}],
        **container,
    }
    spec = {
        "containers": [pytorch],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}],
    }
    replica = {"replicas": workers or 1, "restartPolicy": "ExitCode", "template": {"spec": spec}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": run},
        "spec": {"nprocPerNode": "1", "pytorchReplicaSpecs": {"Worker" if workers else "Master": replica}},
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
