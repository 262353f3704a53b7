"""The short-lived pod through which kctl reads a run's folder: made from the job's own pod template.

So it has the job's image, user, pull secrets, tolerations and queue, and mounts the same claim, read-only.
"""

from typing import Any

from kctl.errors import KctlError
from kctl.manifest import Manifest
from trainer.schema.contract import CONTAINER, LABEL_RUN, RUNS_MOUNT

LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_ROLE = "kctl.dev/role"
SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def reader_name(run: str) -> str:
    """`<run>-reader`: 52 + 7 characters, below the 63 of a DNS label."""
    return f"{run}-reader"


def reader_pod(job: Manifest, pods: list[Manifest]) -> Manifest:
    """The reader for a job; on the node of one of its pods where there is one, so that any volume can be mounted."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from kctl.config.yaml_reader import parse_yaml
    from kctl.manifest.render import TEMPLATES, scalar

    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=False)
    environment.filters["scalar"] = scalar
    text = environment.get_template("reader.yaml.j2").render(values=_values(job, pods))
    manifest: Manifest = parse_yaml(text, "template reader.yaml.j2")
    return manifest


def _values(job: Manifest, pods: list[Manifest]) -> dict[str, Any]:
    metadata, run = job["metadata"], str(job["metadata"]["name"])
    spec = next(iter(job["spec"]["pytorchReplicaSpecs"].values()))["template"]["spec"]
    container = next(one for one in spec["containers"] if one["name"] == CONTAINER)
    mount = next((one for one in container.get("volumeMounts") or [] if one["mountPath"] == RUNS_MOUNT), None)
    if mount is None:
        raise KctlError(
            f"job {run} mounts nothing at {RUNS_MOUNT}: kctl did not render it; read its volume with kubectl"
        )
    labels = {LABEL_RUN: run, LABEL_ROLE: "reader"}
    if LABEL_QUEUE in (metadata.get("labels") or {}):
        labels[LABEL_QUEUE] = metadata["labels"][LABEL_QUEUE]
    nodes = [pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")]
    return {
        "name": reader_name(run),
        "labels": labels,
        "owner": {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": run, "uid": metadata["uid"]},
        "pull_secrets": spec.get("imagePullSecrets") or [],
        "node_selector": {"kubernetes.io/hostname": nodes[0]} if nodes else spec.get("nodeSelector") or {},
        "tolerations": spec.get("tolerations") or [],
        "pod_security": spec.get("securityContext") or {},
        "container_security": SECURITY,
        "image": container["image"],
        "root": f"{RUNS_MOUNT}/{run}",
        "mount": {**mount, "readOnly": True},
        "volume": next(one for one in spec["volumes"] if one["name"] == mount["name"]),
    }
