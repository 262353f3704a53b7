"""A pod that runs one of the trainer's programs on a run's volumes: the job's own pod template with another command.

So it has the run's image, user, volumes, tolerations and queue; GPUs only where the program takes ranks. It goes on
without kctl, and goes with its job.
"""

import copy
import time
from collections.abc import Iterator

from kctl.backends.cluster.api import Api
from kctl.backends.cluster.logs import Given, lines
from kctl.backends.cluster.pod_life import remove, states, too_late
from kctl.backends.cluster.volume_pod import LABEL_ROLE
from kctl.backends.protocol import Work
from kctl.errors import AlreadyExists, NotFound, Refused, RunFailed
from kctl.manifest import LABEL_QUEUE, Manifest, pod_of
from trainer.schema.contract import CONTAINER, LABEL_RUN

WITHOUT_RANKS = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "16Gi"}}
"""A merge holds a few tensors; what it reads and writes passes the page cache, which is given back on demand."""
_PAUSE = 1.0


def work_pod(job: Manifest, work: Work) -> Manifest:
    """The pod of `work` on the job's run, as one creates it."""
    metadata, run = job["metadata"], str(job["metadata"]["name"])
    spec = copy.deepcopy(pod_of(job))
    container = next(one for one in spec["containers"] if one["name"] == CONTAINER)
    spec["containers"] = [container]  # a sidecar is the run's own business, and might never end
    container["command"] = ["tini", "--", *work.argv(str(job["spec"].get("nprocPerNode", "auto")))]
    container["env"] = [entry for entry in container.get("env", []) if not entry["name"].startswith("PET_")]
    if not work.ranks:
        container["resources"] = copy.deepcopy(WITHOUT_RANKS)
    labels = {LABEL_RUN: run, LABEL_ROLE: work.role, "sidecar.istio.io/inject": "false"}
    if LABEL_QUEUE in (metadata.get("labels") or {}):
        labels[LABEL_QUEUE] = metadata["labels"][LABEL_QUEUE]
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": run, "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        # 52 + 9 characters, below the 63 of a DNS label
        "metadata": {"name": f"{run}-{work.role}", "labels": labels, "ownerReferences": [owner]},
        "spec": {**spec, "restartPolicy": "Never"},
    }


def worked(api: Api, pods_path: str, manifest: Manifest) -> Iterator[str]:
    """The pod's log to its end; one that runs already is followed, one that has ended is replaced.

    RunFailed where it fails, Refused where it is at something else, TimedOut where it does not start.
    """
    name = str(manifest["metadata"]["name"])
    path, action = f"{pods_path}/{name}", f"run pod {name}"
    _create(api, action, pods_path, manifest)
    for pod in states(api, action, pods_path, name):
        if pod is not None and pod["status"].get("phase", "Pending") != "Pending":
            break
    else:
        raise too_late(api, action, path)
    for _, text in lines(api, path, True, Given(None)):
        yield text
    pod = _ended(api, action, path)
    remove(api, action, path, pod)
    if pod["status"]["phase"] != "Succeeded":
        reason = pod["status"].get("reason") or "its last words are above"
        raise RunFailed(f"pod {name} failed: {reason}; run it again to go on")


def _create(api: Api, action: str, pods_path: str, manifest: Manifest) -> None:
    path = f"{pods_path}/{manifest['metadata']['name']}"
    while True:
        try:
            api.post(action, pods_path, manifest, {"fieldManager": "kctl"})
            return
        except AlreadyExists:
            try:
                pod = api.get(action, path)
            except NotFound:
                continue
        if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") not in ("Succeeded", "Failed"):
            if _command(pod) != _command(manifest):
                raise Refused(f"cannot {action}: it is at work with other arguments; wait for it, or delete that pod")
            return
        remove(api, action, path, pod)
        time.sleep(_PAUSE)


def _command(pod: Manifest) -> list[str]:
    found: list[str] = next(one["command"] for one in pod["spec"]["containers"] if one["name"] == CONTAINER)
    return found


def _ended(api: Api, action: str, path: str) -> Manifest:
    """The pod once it has ended: its phase comes a moment after its container's end."""
    while True:
        try:
            pod = api.get(action, path)
        except NotFound:
            raise NotFound(
                f"cannot {action}: another kctl followed it and has removed it; run the same again"
            ) from None
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            return pod
        time.sleep(_PAUSE)
