"""200 runs with 1,000 pods on 50 nodes that exist in the API alone: kwok plays their kubelets.

The jobs are rendered by kctl and have the operator's own words for their state (statuses/). Their pods are made here:
the operator would need minutes for as many, so the jobs name another manager.
"""

import copy
import itertools
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kctl.config.run_config import load
from kctl.manifest import the_job
from kctl.manifest.render import render
from tests.cluster.conftest import BIN, HERE
from tests.cluster.jobs import OTHER_MANAGER
from tests.cluster.operator_statuses import FOLDER, MOMENT, NAME
from tests.cluster.shell import Shell
from trainer.schema.messages import attempt_line, step_line

NODES = 50
STEPS, LINES = 20_000, 5_000
PLAYED = "kctl.dev/played"
"""Annotation of a pod with the status that its kubelet is to report."""
_AT_ONCE = 4
_PIECE = 150
"""Objects of one kubectl: it makes the first 300 of them without a pause."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """So many runs in one state, of so many pods each; how each pod is."""

    state: str
    runs: int
    pods: int
    phase: str
    container: Object
    """State of its container."""


def _ended(code: int, /, **message: Any) -> Object:
    told = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": MOMENT, "finishedAt": MOMENT}
    return {"terminated": {**told, "message": json.dumps(message)}}


_AT_WORK: Object = {"running": {"startedAt": MOMENT}}
_DONE = _ended(0, step=STEPS, steps=STEPS, loss=0.5321, code=0, sentence="done: 3 epochs", attempt=2)
_FAILED = _ended(5, step=812, steps=STEPS, loss=3.2, code=5, sentence="20 steps in a row without a number", attempt=3)
KINDS = (
    Kind("succeeded", 50, 4, "Succeeded", _DONE),
    Kind("failed", 30, 4, "Failed", _FAILED),
    Kind("suspended", 10, 0, "", {}),
    Kind("restarting", 10, 4, "Failed", _ended(143, step=4000, steps=STEPS, loss=1.9, code=143, attempt=2)),
    Kind("created", 20, 4, "", {}),
    Kind("running", 40, 8, "Running", _AT_WORK),
    Kind("running-after-restart", 40, 6, "Running", _AT_WORK),
)
"""A pod without a phase has no node: it asks for 8 GPUs, and the real scheduler says what it waits for."""
RUNS = sum(kind.runs for kind in KINDS)
PODS = sum(kind.runs * kind.pods for kind in KINDS)


@contextmanager
def made(shell: Shell, folder: Path) -> Iterator[dict[str, list[str]]]:
    """State -> its runs, while they are there."""
    built = subprocess.run([HERE / "tool.sh", "kwok"], timeout=1800, check=False)
    assert built.returncode == 0, "its messages stand above"
    with _kwok(shell.kubeconfig, folder, shell.namespace):
        _create(shell, [_node(shell.namespace, number) for number in range(NODES)])
        try:
            yield _runs(shell)
        finally:
            for kind in ("pytorchjobs", "pods"):
                shell.kubectl("delete", kind, "--all", "--grace-period=0", "--force", "--wait=false")
            shell.kubectl("delete", "nodes", "-l", f"kctl.dev/fleet={shell.namespace}")


def _create(shell: Shell, objects: list[Object]) -> None:
    pieces = [objects[start : start + _PIECE] for start in range(0, len(objects), _PIECE)]
    texts = [json.dumps({"apiVersion": "v1", "kind": "List", "items": piece}) for piece in pieces]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda text: shell.kubectl("create", "-f", "-", stdin=text), texts))


def _node(fleet: str, number: int) -> Object:
    """As a kubelet registers itself; tainted, so that nothing else is scheduled there."""
    name = f"{fleet}-{number}"
    has = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": "8"}
    metadata = {"name": name, "labels": {"kctl.dev/fleet": fleet, "kubernetes.io/hostname": name}}
    metadata["annotations"] = {"kctl.dev/fleet": fleet}
    taints = [{"key": "kctl.dev/fleet", "value": fleet, "effect": "NoSchedule"}]
    status = {"capacity": has, "allocatable": has}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": taints}, "status": status}


def _runs(shell: Shell) -> dict[str, list[str]]:
    kinds = [kind for kind in KINDS for _ in range(kind.runs)]
    jobs = [_job(shell.namespace, kind, seed) for seed, kind in enumerate(kinds)]
    names = [str(job["metadata"]["name"]) for job in jobs]
    _create(shell, jobs)
    found = json.loads(shell.kubectl("get", "pytorchjobs", "-o", "json"))["items"]
    there: dict[str, Object] = {one["metadata"]["name"]: one for one in found}
    for kind, name in zip(kinds, names, strict=True):
        there[name]["status"] = json.loads(_recorded(kind.state).replace(NAME, name))["status"]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    shell.kubectl("replace", "--subresource=status", "-f", "-", stdin=text)
    nodes = itertools.cycle(f"{shell.namespace}-{number}" for number in range(NODES))
    placed = zip(kinds, names, strict=True)
    _create(shell, [_pod(kind, there[name], at, next(nodes)) for kind, name in placed for at in range(kind.pods)])
    _until_played(shell)
    return {kind.state: [name for one, name in zip(kinds, names, strict=True) if one is kind] for kind in KINDS}


@cache
def _recorded(state: str) -> str:
    return (FOLDER / f"{state}.json").read_text()


def _job(namespace: str, kind: Kind, seed: int) -> Object:
    loaded = load("lora_di3", [f"train.seed={seed}", f"cluster.nodes={kind.pods or 1}"])
    job = copy.deepcopy(the_job(render(loaded.config, loaded.profile, namespace).manifests))
    job["spec"]["runPolicy"] = {**job["spec"]["runPolicy"], "managedBy": OTHER_MANAGER}
    if kind.state == "suspended":
        job["spec"]["runPolicy"]["suspend"] = True
    return job


def _pod(kind: Kind, job: Object, number: int, node: str) -> Object:
    """As the operator makes it of the job's template, and the status of its kubelet."""
    name = job["metadata"]["name"]
    (replica, spec), *_ = job["spec"]["pytorchReplicaSpecs"].items()
    pod: Object = copy.deepcopy(spec["template"])
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": name, "uid": job["metadata"]["uid"]}
    metadata = pod.setdefault("metadata", {})
    metadata["name"] = f"{name}-{replica.lower()}-{number}"
    metadata["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": True}]
    metadata["labels"] = {
        **metadata.get("labels", {}),
        "training.kubeflow.org/job-name": name,
        "training.kubeflow.org/operator-name": "pytorchjob-controller",
        "training.kubeflow.org/replica-type": replica.lower(),
        "training.kubeflow.org/replica-index": str(number),
    }
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["spec"]["restartPolicy"] = "Never"
    if kind.phase:
        container = pod["spec"]["containers"][0]
        about = {"name": container["name"], "image": container["image"], "imageID": "x", "restartCount": 0}
        ready = kind.phase == "Running"
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": MOMENT}]
        status = {"phase": kind.phase, "startTime": MOMENT, "podIP": "10.1.2.3", "conditions": conditions}
        status["containerStatuses"] = [{**about, "ready": ready, "state": kind.container}]
        metadata["annotations"] = {**metadata.get("annotations", {}), PLAYED: json.dumps(status)}
        pod["spec"]["nodeName"] = node
    return pod


def _until_played(shell: Shell) -> None:
    deadline = time.monotonic() + 240
    expected = sum(kind.runs * kind.pods for kind in KINDS if not kind.phase)
    while True:
        pending = shell.kubectl("get", "pods", "--field-selector=status.phase=Pending", "-o", "name").count("\n")
        if pending == expected:
            return
        assert time.monotonic() < deadline, f"{pending} pods are pending, not {expected}: kwok's log is in its folder"
        time.sleep(0.5)


# ----------------------------------------------------------------------------------------------------------------------
# kwok


@contextmanager
def _kwok(kubeconfig: str, folder: Path, fleet: str) -> Iterator[None]:
    """It plays the kubelets of the nodes of this fleet: leases, status of pods, and one log for all of them."""
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kubelet"]
    key, certificate, log = folder / "kubelet.key", folder / "kubelet.crt", folder / "pod.log"
    subprocess.run(["openssl", *request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    log.write_text(_log())
    settings = folder / "kwok.yaml"
    settings.write_text("---\n".join(json.dumps(one) + "\n" for one in _settings(log)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [BIN / "kwok", "--kubeconfig", kubeconfig, "--config", settings, "--manage-all-nodes=false"]
    command += [f"--manage-nodes-with-annotation-selector=kctl.dev/fleet={fleet}", "--node-ip=127.0.0.1"]
    command += [f"--node-port={port}", "--tls-cert-file", certificate, "--tls-private-key-file", key]
    with (folder / "kwok.log").open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.terminate()


def _settings(log: Path) -> list[Object]:
    there = {"key": f'.metadata.annotations["{PLAYED}"]', "operator": "Exists"}
    fresh = {"key": ".status.containerStatuses", "operator": "DoesNotExist"}
    spec = {
        "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
        "selector": {"matchExpressions": [there, fresh]},
        "next": {"statusTemplate": f'{{{{ index .metadata.annotations "{PLAYED}" }}}}'},
    }
    kept = {"containers": ["pytorch"], "logsFile": str(log)}
    version = "kwok.x-k8s.io/v1alpha1"
    return [
        {"apiVersion": version, "kind": "Stage", "metadata": {"name": "played"}, "spec": spec},
        {"apiVersion": version, "kind": "ClusterLogs", "metadata": {"name": "all"}, "spec": {"logs": [kept]}},
    ]


def _log() -> str:
    """As containerd keeps it: an attempt's beginning and its steps."""
    lines = [attempt_line(2, "lora-di3-00000000", 400)]
    for step in range(1, LINES + 1):
        record = {"step": step, "steps": STEPS, "loss": 4 - step / LINES, "lr": 2e-4, "grad_norm": 0.81}
        lines.append(step_line({**record, "tokens_per_s": 52_100, "mem_gib": 61.5, "eta_s": 2.0 * (STEPS - step)}))
    begun = 1_764_072_000
    stamps = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(begun + number)) for number in range(len(lines)))
    return "".join(f"{stamp}.500000000Z stdout F {line}\n" for stamp, line in zip(stamps, lines, strict=True))
