"""A cluster that answers as one does where a run of eight GPUs would start, and a working directory for it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kctl.cli import run as kctl
from tests.cli.api_server import ApiServer, serving

ROOT = Path(__file__).parents[2]
CORE = "/api/v1/namespaces/team"
NODES = "/api/v1/nodes"
DEPLOYMENTS = "/apis/apps/v1/deployments"
JOBS = "/apis/kubeflow.org/v1/namespaces/team/pytorchjobs"
KUEUE = "/apis/kueue.x-k8s.io"
QUEUES = f"{KUEUE}/v1beta2/namespaces/team/localqueues"
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "train": {
        "model": {"path": "m"},
        "data": {"path": "d.json", "format": "messages"},
        "lora": {"rank": 4},
        "optim": {"lr": 1e-3},
    },
    "cluster": {"gpus_per_node": 8},
}
Profile = Callable[..., None]


@contextmanager
def ready(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """The cluster, while the block lasts; `root` is the working directory."""
    with serving() as made:
        monkeypatch.chdir(root)
        monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(root / "kubeconfig")))
        made.answers |= {
            CORE: {"metadata": {"name": "team", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
            "/apis/kubeflow.org/v1": {"resources": []},
            DEPLOYMENTS: [operator("v1-93c5489")],
            f"{CORE}/persistentvolumeclaims": [claim(name) for name in ("models", "data", "runs")],
            "/apis/storage.k8s.io/v1/storageclasses": [],
            NODES: [gpu_node("n1"), gpu_node("n2", taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])],
            f"{CORE}/resourcequotas": [],
            f"{CORE}/secrets": [],
        }
        yield made


def written(server: ApiServer, root: Path) -> Profile:
    """Writes the profile `default`, and the config `tiny` with `cluster` laid over its section; called once already."""

    def write(cluster: dict[str, Any] | None = None, **changes: Any) -> None:
        host = f"127.0.0.1:{server.server_address[1]}"
        digest = "sha256:" + "0123456789abcdef" * 4
        server.answers[f"/v2/trainer/manifests/{digest}"] = {}
        shipped = yaml.safe_load((ROOT / "configs" / "clusters" / "default.yaml").read_text())
        (root / "configs" / "clusters").mkdir(parents=True, exist_ok=True)
        value = {**shipped, "image": f"{host}/trainer@{digest}", **changes}
        (root / "configs" / "clusters" / "default.yaml").write_text(json.dumps(value))
        config = {**CONFIG, "cluster": {**CONFIG["cluster"], **(cluster or {})}}
        (root / "configs" / "tiny.yaml").write_text(json.dumps(config))

    write()
    return write


def operator(tag: str, available: int = 1, *words: str) -> dict[str, Any]:
    container = {"image": f"ghcr.io/kubeflow/training-v1/training-operator:{tag}", "command": ["/manager", *words]}
    spec = {"template": {"spec": {"containers": [container]}}}
    labels = {"control-plane": "kubeflow-training-operator"}
    metadata = {"name": "training-operator", "namespace": "kubeflow", "labels": labels}
    return {"metadata": metadata, "spec": spec, "status": {"availableReplicas": available}}


def claim(name: str, mode: str = "ReadWriteMany", phase: str = "Bound", **spec: Any) -> dict[str, Any]:
    status = {"phase": phase, "capacity": {"storage": "200Gi"}}
    return {"metadata": {"name": name}, "spec": {"accessModes": [mode], **spec}, "status": status}


def gpu_node(name: str, gpus: str = "8", **spec: Any) -> dict[str, Any]:
    offered = {"cpu": "96", "memory": "1000Gi", "nvidia.com/gpu": gpus}
    status = {"allocatable": offered, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[dict[str, Any]]]:
    """(exit code, findings that are not well)."""
    code = kctl(["doctor", *argv, "-o", "json"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert all((one["state"] == "ok") == (one["next"] == "") for one in found), "a remedy for whatever is not well"
    assert all((one["exit_code"] > 0) == (one["state"] == "fail") for one in found)
    return code, [one for one in found if one["state"] != "ok"]
