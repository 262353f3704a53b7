"""Short-lived pods that work on a run's folder, or write a volume, for kctl: made from a job's own pod template.

So they have the job's image, user, pull secrets, tolerations and queue, and mount the same claim.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from kctl.backends.cluster.api import Api
from kctl.backends.cluster.errors import cut
from kctl.backends.cluster.watch import snapshots
from kctl.errors import AlreadyExists, KctlError, NotFound, TimedOut
from kctl.manifest import LABEL_QUEUE, Manifest, pod_of
from trainer.schema.contract import CONTAINER, LABEL_RUN, RUNS_MOUNT
from trainer.schema.identity import canonical

START_SECONDS = 120.0
"""For a pod to be scheduled and its image pulled, which the run's pods have, too; an eraser has no longer either."""
WRITER_IDLE_SECONDS = "300"
"""kctl push removes its pod itself; one that was killed leaves the volume alone after this."""
_ABSENT = re.compile(r'persistentvolumeclaim "[^"]+" not found')
"""The scheduler's words."""
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


# --------------------------------------------------------------------------------------------------------------
# their life


def started(api: Api, pods_path: str, manifest: Manifest) -> str:
    """The path of the pod, once its container runs: one that is there is taken, one that has ended is replaced."""
    name = str(manifest["metadata"]["name"])
    path, action = f"{pods_path}/{name}", f"start pod {name}"
    _create(api, pods_path, manifest)
    failed, first = set[str](), not manifest["metadata"]["ownerReferences"]  # a run's own pods had the claim before it
    for pod in states(api, action, pods_path, name):
        if pod is None:
            _create(api, pods_path, manifest)
        elif pod["status"].get("phase") in ("Succeeded", "Failed"):
            remove(api, action, path, pod)
            failed |= {pod["metadata"]["uid"]} if pod["status"]["phase"] == "Failed" else set()
            if len(failed) > 1:  # the first may be of long ago
                raise KctlError(f"cannot {action}: {cut(_last_words(pod))}; is the profile's image of this kctl?")
        elif pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
            return path
        elif first and (absent := _ABSENT.search(_unmet(pod["status"]))) is not None:
            raise NotFound(f"cannot {action}: {absent[0]}: make that claim, or correct volumes in the profile")
    raise too_late(api, action, path)


def ended(api: Api, pods_path: str, manifest: Manifest) -> None:
    """Run the pod to its end and remove it. KctlError with its last words where it failed."""
    name = str(manifest["metadata"]["name"])
    path, action = f"{pods_path}/{name}", f"run pod {name}"
    _create(api, pods_path, manifest)
    for pod in states(api, action, pods_path, name):
        phase = pod["status"].get("phase") if pod is not None else None
        if pod is not None and phase in ("Succeeded", "Failed"):
            remove(api, action, path, pod)
            if phase == "Failed":
                raise KctlError(f"cannot {action}: {cut(_last_words(pod))}")
            return
    raise too_late(api, action, path)


def states(api: Api, action: str, pods_path: str, name: str) -> Iterator[Manifest | None]:
    """The pod now and after every change, for START_SECONDS; None while there is none."""
    deadline = time.monotonic() + START_SECONDS
    for found in snapshots(api, action, pods_path, {"fieldSelector": f"metadata.name={name}"}, START_SECONDS):
        yield found[0] if found else None
        if time.monotonic() > deadline:
            return


def _create(api: Api, pods_path: str, manifest: Manifest) -> None:
    try:
        api.post(f"create pod {manifest['metadata']['name']}", pods_path, manifest, {"fieldManager": "kctl"})
    except AlreadyExists:
        # Somebody's, from a moment ago: it does the same on the same folder.
        return


def remove(api: Api, action: str, path: str, pod: Manifest) -> None:
    """Delete that very pod, unless somebody has."""
    with contextlib.suppress(NotFound):
        if "deletionTimestamp" in pod["metadata"]:
            return
        api.delete(action, path, {"preconditions": {"uid": pod["metadata"]["uid"]}})


def _last_words(pod: Manifest) -> str:
    for container in pod["status"].get("containerStatuses") or []:
        message = ((container.get("state") or {}).get("terminated") or {}).get("message")
        if message:
            return str(message)
    return f"it ended as {pod['status'].get('phase')} without a word"


def too_late(api: Api, action: str, path: str) -> TimedOut:
    """What to say of a pod that did not get so far within START_SECONDS."""
    namespace, name = path.split("/")[4], path.rpartition("/")[2]
    return TimedOut(
        f"cannot {action}: {_why(api, action, path)} after {START_SECONDS:.0f} s; "
        f"see: {api.connection.kubectl} -n {namespace} describe pod {name}"
    )


def _why(api: Api, action: str, path: str) -> str:
    try:
        status = api.get(action, path)["status"]
    except KctlError as error:
        return cut(str(error))
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return cut(f"{waiting.get('reason', 'waiting')} {waiting.get('message', '')}")
    return cut(_unmet(status)) or f"it is {status.get('phase', 'unknown')}"


def _unmet(status: Manifest) -> str:
    """What the first condition that is not met says, e.g. why no node takes the pod."""
    unmet = [one for one in status.get("conditions") or [] if one.get("status") == "False" and one.get("message")]
    return str(unmet[0]["message"]) if unmet else ""
