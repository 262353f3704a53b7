"""Runs in every kind of trouble, as the API and the trainer tell of them: cause -> facts.

Words of the cluster are those of Kubernetes 1.34, containerd, the training operator 1.9.4 and Kueue; see the modules of
kctl/explain for where they stand in their sources.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from kctl.backends.facts import Facts, last_lines
from trainer.schema.contract import ANNOTATION_CANCELLED, LABEL_CONFIG, LABEL_REPLICA_INDEX

RUN = "demo-1a2b3c4d"
POD = f"{RUN}-master-0"
NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
QUEUE = {"kueue.x-k8s.io/queue-name": "gpu"}
Object = dict[str, Any]


def ago(seconds: float) -> str:
    """RFC 3339, so long before NOW."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(
    *conditions: str, said: str = "", labels: dict[str, str] | None = None, age: float = 600, **spec: Any
) -> Object:
    """A PyTorchJob with these conditions True, the last one with a message."""
    policy = {"cleanPodPolicy": "Running", **spec.pop("runPolicy", {})}
    limits = {"memory": "400Gi", "nvidia.com/gpu": "8"}
    container = {"name": "pytorch", "image": "registry.example.com/kctl/trainer:0.1.0"}
    container["resources"] = {"requests": {"cpu": "32", "memory": "400Gi"}, "limits": limits}
    claims = [{"name": one, "persistentVolumeClaim": {"claimName": one}} for one in ("models", "data", "runs")]
    template = {"spec": {"containers": [container], "volumes": claims, **spec.pop("pod", {})}}
    replica = {"replicas": spec.pop("nodes", 1), "template": template}
    return {
        "kind": "PyTorchJob",
        "metadata": {
            "name": RUN,
            "namespace": "team",
            "uid": "u-job",
            "creationTimestamp": ago(age),
            "labels": {LABEL_CONFIG: "demo", **(labels or {})},
            **spec.pop("metadata", {}),
        },
        "spec": {"runPolicy": policy, "pytorchReplicaSpecs": {"Master": replica}},
        "status": {
            "conditions": [
                {"type": kind, "status": "True", "message": said if kind == conditions[-1] else "", **_at(300)}
                for kind in conditions
            ]
        },
    }


def _at(seconds: float) -> Object:
    return {"lastTransitionTime": ago(seconds)}


def pod(phase: str = "Pending", state: Object | None = None, index: int = 0, age: float = 300, **status: Any) -> Object:
    """A pod; `state` is that of its container, which only a pod with a node has."""
    metadata = {"name": f"{RUN}-master-{index}", "uid": f"u-{index}", "creationTimestamp": ago(age)}
    metadata |= {"labels": {LABEL_REPLICA_INDEX: str(index)}, **status.pop("metadata", {})}
    if state is not None:
        status["containerStatuses"] = [{"name": "pytorch", "state": state}]
    return {"metadata": metadata, "spec": status.pop("spec", {}), "status": {"phase": phase, **status}}


def event(reason: str, message: str, kind: str = "Pod", name: str = POD, age: float = 30) -> Object:
    """An event; warnings and others look alike to us."""
    uid = {"PyTorchJob": "u-job", "Pod": "u-0"}.get(kind, "")
    about = {"kind": kind, "name": name, "uid": uid}
    return {"type": "Warning", "reason": reason, "message": message, "involvedObject": about, "lastTimestamp": ago(age)}


# ----------------------------------------------------------------------------------------------------------------------
# one shape for each place where somebody says why


def refused(message: str) -> Facts:
    """The operator could not make the pod."""
    said = (
        f'pods "{POD}" is forbidden: {message}'
        if not message.startswith(("Pod ", "admission", "Internal"))
        else message
    )
    return Facts(NOW, job("Created"), events=(event("FailedCreatePod", f"Error creating: {said}", "PyTorchJob", RUN),))


def unplaced(message: str, reason: str = "Unschedulable", **facts: Any) -> Facts:
    """The scheduler has no node for the pod."""
    told = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return Facts(NOW, facts.pop("job", job("Created")), (pod(conditions=[told]),), **facts)


def node(name: str = "n1", ready: str = "True", spec: Object | None = None, **allocatable: str) -> Object:
    """A node that offers so much; its label `name` is its name."""
    offered = {key.replace("gpu", "nvidia.com/gpu"): value for key, value in allocatable.items()}
    conditions = [{"type": "Ready", "status": ready, "reason": "NodeStatusUnknown", **_at(90)}]
    metadata = {"name": name, "labels": {"name": name}}
    return {"metadata": metadata, "spec": spec or {}, "status": {"allocatable": offered, "conditions": conditions}}


def claim(phase: str, name: str = "data") -> Object:
    """A claim of the run."""
    return {"metadata": {"name": name}, "status": {"phase": phase}}


BOUND = (claim("Bound", "models"), claim("Bound", "runs"))


def unbound(reason: str, message: str) -> Facts:
    """Claim data does not bind, and somebody said why."""
    said = event(reason, message, "PersistentVolumeClaim", "data")
    facts = unplaced("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", events=(said,))
    return Facts(NOW, facts.job, facts.pods, facts.events, claims=(*BOUND, claim("Pending")))


def waits(reason: str, message: str = "", *events: Object) -> Facts:
    """The container waits on its node."""
    return Facts(NOW, job("Created"), (pod(state={"waiting": {"reason": reason, "message": message}}),), events)


def kubelet(reason: str, message: str, age: float = 30) -> Facts:
    """The kubelet says something of a pod whose container is being created."""
    return waits("ContainerCreating", "", event(reason, message, age=age))


def queued(kind: str, status: str, reason: str, message: str) -> Facts:
    """Kueue's Workload has this condition."""
    told = {"type": kind, "status": status, "reason": reason, "message": message, **_at(60)}
    workload = {"metadata": {"name": f"pytorchjob-{RUN}-4f5a1"}, "status": {"conditions": [told]}}
    suspended = job("Created", "Suspended", labels=QUEUE, runPolicy={"suspend": True})
    return Facts(NOW, suspended, workloads=(workload,))


def taken(phase: str = "Failed", restarting: bool = True, **status: Any) -> Facts:
    """A pod that ended from outside, before the operator has made it anew."""
    return Facts(NOW, job("Created", "Restarting" if restarting else "Running"), (pod(phase, **status),))


def disrupted(reason: str) -> Facts:
    """A pod that is asked to go."""
    told = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "words", **_at(5)}
    return taken("Running", restarting=False, conditions=[told], state={"running": {"startedAt": ago(200)}})


def ended(code: int, sentence: str = "", reason: str = "Error", log: tuple[str, ...] = (), operator: str = "") -> Facts:
    """The run failed; its pod's last word is `sentence`."""
    message = json.dumps({"code": code, "sentence": sentence, "step": 7, "steps": 90}) if sentence else ""
    over = {"terminated": {"exitCode": code, "reason": reason, "message": message, "startedAt": ago(100)}}
    said = operator or f'job "{RUN}" is failing because "Master" replica(s) failed.'
    return Facts(NOW, job("Created", "Failed", said=said), (pod("Failed", over),), log=logged(*log))


def again(code: int, sentence: str) -> Facts:
    """An attempt ended with a retryable code, and its pod is still there."""
    message = json.dumps({"code": code, "sentence": sentence})
    over = {"terminated": {"exitCode": code, "reason": "Error", "message": message, "startedAt": ago(100)}}
    return Facts(NOW, job("Created", "Running"), (pod("Failed", over),))


def logged(*lines: str, age: float = 20) -> tuple[tuple[str, str], ...]:
    """The log's last lines."""
    return last_lines((ago(age), line) for line in lines)


STEP = "step=100/1000 loss=1.2345 lr=2.0e-04 grad_norm=0.81 tokens_per_s=5210 mem_gib=31.2 eta_s=5400"


def running(*lines: str, age: float = 20, **changes: Any) -> Facts:
    """It runs, and these are its last lines."""
    on = pod("Running", {"running": {"startedAt": ago(4000)}}, **changes.pop("pod", {}))
    return Facts(NOW, changes.pop("job", job("Created", "Running")), (on,), log=logged(*lines, age=age), **changes)


def cancelled(pods: tuple[Object, ...] = ()) -> Facts:
    """Somebody typed kctl cancel."""
    how = {"annotations": {ANNOTATION_CANCELLED: ago(60)}}
    return Facts(NOW, job("Created", "Suspended", runPolicy={"suspend": True}, metadata=how), pods)
