"""Manifests of short-lived pods that work on a run's folder, or write a volume: made from a job's own pod template.

So they have the job's image, user, pull secrets, tolerations and queue, and mount the same claim. pod_life runs them.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from kctl.errors import KctlError
from kctl.manifest import LABEL_QUEUE, Manifest, pod_of
from trainer.schema.contract import CONTAINER, LABEL_RUN, RUNS_MOUNT
from trainer.schema.identity import canonical

WRITER_IDLE_SECONDS = "300"
"""kctl push removes its pod itself; one that was killed leaves the volume alone after this."""
LABEL_ROLE = "kctl.dev/role"
SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def reader_pod(job: Manifest, pods: list[Manifest]) -> Manifest:
    """The pod that serves the run's folder to kctl, read-only; on the node of one of the job's pods where there is one,
    so that any volume can be mounted."""
    return _filled(job, pods, "reader", "trainer.reader")


def catalog_pod(job: Manifest, pods: list[Manifest]) -> Manifest:
    """As the reader, for the folders of all runs on the job's volume."""
    return _filled(job, pods, "catalog", "trainer.reader", RUNS_MOUNT)


def by_volume(jobs: Sequence[Manifest]) -> list[list[Manifest]]:
    """The jobs in groups that have their runs volume, and the place in it, in common; without those that have none."""
    found: dict[str, list[Manifest]] = {}
    for job in jobs:
        volume, mount = volume_at(job, RUNS_MOUNT)
        if volume is not None and mount is not None:
            claim = {key: value for key, value in volume.items() if key != "name"}
            found.setdefault(canonical([claim, mount.get("subPath")]), []).append(job)
    return list(found.values())


def eraser_pod(job: Manifest, pods: list[Manifest]) -> Manifest:
    """The pod that removes the run's folder."""
    return _filled(job, pods, "eraser", "trainer.erase")


def writer_pod(job: Manifest, mount: str, pods: list[Manifest]) -> Manifest:
    """The pod that takes files for the volume which the pods of `job`, a rendered one, mount at `mount`.

    It belongs to no run, and is named by all that it is. On the node of one of `pods` that has the same claim, where
    the claim is of one node.
    """
    values = {**_values(job, pods, mount), "labels": {**_queue(job), LABEL_ROLE: "writer"}, "owners": []}
    values |= {"role": "writer", "words": ["trainer.receiver", "--root", mount, "--idle-seconds", WRITER_IDLE_SECONDS]}
    values["mount"] = {key: value for key, value in values["mount"].items() if key != "readOnly"}
    values["name"] = f"kctl-push-{hashlib.sha256(canonical(values).encode()).hexdigest()[:8]}"
    return _rendered(values)


def _filled(job: Manifest, pods: list[Manifest], role: str, module: str, root: str | None = None) -> Manifest:
    values = {**_values(job, pods, RUNS_MOUNT), "role": role}
    run = str(job["metadata"]["name"])
    values["words"] = [module, "--root", root or f"{RUNS_MOUNT}/{run}"]
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": run, "uid": job["metadata"]["uid"]}
    values |= {"labels": {LABEL_RUN: run, **_queue(job), LABEL_ROLE: role}, "owners": [owner]}
    values["name"] = f"{run}-{role}"  # 52 + 8 characters, below the 63 of a DNS label
    values["mount"] = {**values["mount"], "readOnly": role != "eraser"}
    return _rendered(values)


def _rendered(values: dict[str, Any]) -> Manifest:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from kctl.config.yaml_reader import parse_yaml
    from kctl.manifest.render import TEMPLATES, scalar

    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=False)
    environment.filters["scalar"] = scalar
    text = environment.get_template("volume_pod.yaml.j2").render(values=values)
    manifest: Manifest = parse_yaml(text, "template volume_pod.yaml.j2")
    return manifest


def _pod(job: Manifest) -> tuple[Manifest, Manifest]:
    """The spec of the job's pods, and their container."""
    spec = pod_of(job)
    return spec, next(one for one in spec["containers"] if one["name"] == CONTAINER)


def volume_at(job: Manifest, path: str) -> tuple[Manifest | None, Manifest | None]:
    """(volume, mount) of the job's pods at `path`, None where they mount nothing there."""
    spec, container = _pod(job)
    mount = next((one for one in container.get("volumeMounts") or [] if one["mountPath"] == path), None)
    return (mount and next(one for one in spec["volumes"] if one["name"] == mount["name"])), mount


def _queue(job: Manifest) -> dict[str, str]:
    labels = job["metadata"].get("labels") or {}
    return {LABEL_QUEUE: labels[LABEL_QUEUE]} if LABEL_QUEUE in labels else {}


def _values(job: Manifest, pods: list[Manifest], path: str) -> dict[str, Any]:
    spec, container = _pod(job)
    volume, mount = volume_at(job, path)
    if mount is None:
        raise KctlError(
            f"job {job['metadata']['name']} mounts nothing at {path}: kctl did not render it; use its volume by kubectl"
        )
    nodes = [pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")]
    return {
        "pull_secrets": spec.get("imagePullSecrets") or [],
        "node_selector": {"kubernetes.io/hostname": nodes[0]} if nodes else spec.get("nodeSelector") or {},
        "tolerations": spec.get("tolerations") or [],
        "pod_security": spec.get("securityContext") or {},
        "container_security": SECURITY,
        "image": container["image"],
        "mount": mount,
        "volume": volume,
    }
