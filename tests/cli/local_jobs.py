"""Small real jobs for the local backend: a PyTorchJob as kctl renders it, whose command is a line of Python."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kctl.backends.local.backend import Local
from kctl.backends.run_view import RunView, run_view
from trainer.schema import contract

WAIT_SECONDS = 30.0


def manifests(run: str, code: str, workers: int = 0, grace: int = 2, digest: str = "one") -> list[dict[str, Any]]:
    """A ConfigMap and a job of one master, or of several workers, that run `code`."""
    env: list[dict[str, Any]] = [
        {"name": contract.ENV_CONFIG, "value": contract.CONFIG_PATH},
        {"name": contract.ENV_RUNS, "value": contract.RUNS_MOUNT},
        {"name": contract.ENV_POD_UID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]
    container = {
        "name": contract.CONTAINER,
        "command": ["tini", "--", "python", "-c", code],
        "env": env,
        "volumeMounts": [
            {"name": "config", "mountPath": str(Path(contract.CONFIG_PATH).parent)},
            {"name": "runs", "mountPath": contract.RUNS_MOUNT, "subPath": "team"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    spec = {
        "terminationGracePeriodSeconds": grace,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": f"{run}-abc123"}},
            {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if workers:
        rank = f"metadata.labels['{contract.LABEL_REPLICA_INDEX}']"
        env.append({"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": rank}}})
        env.append({"name": "PET_MASTER_ADDR", "value": f"{run}-worker-0"})
        env.append({"name": "PET_MASTER_PORT", "value": str(contract.MASTER_PORT)})
    replica = {"replicas": workers or 1, "restartPolicy": "ExitCode", "template": {"spec": spec}}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": run,
            "labels": {contract.LABEL_RUN: run, contract.LABEL_CONFIG: run.rpartition("-")[0]},
            "annotations": {contract.ANNOTATION_MANIFEST: digest},
        },
        "spec": {
            "nprocPerNode": "2",
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {"Worker" if workers else "Master": replica},
        },
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{run}-abc123"},
        "immutable": True,
        "data": {"config.json": f'{{"run": "{run}"}}\n'},
    }
    return [config_map, job]


def view(backend: Local, run: str) -> RunView:
    """The run as it is now."""
    job = backend.get_job(run)
    assert job is not None
    return run_view(job, backend.list_pods(run))


def until(backend: Local, run: str, reached: Callable[[RunView], bool]) -> RunView:
    """The run as soon as `reached` says so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        now = view(backend, run)
        if reached(now):
            return now
        time.sleep(0.02)
    log = (backend.root / "jobs" / run / "supervisor.log").read_text()
    raise AssertionError(f"not within {WAIT_SECONDS} s: {now}\n{log}")


def wait_for_file(path: Path) -> str:
    """The content of a file as soon as it is there and not empty."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} did not appear")
