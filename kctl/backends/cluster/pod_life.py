"""The life of a pod that kctl makes by itself: created, waited for, removed, and why it is not as it should be.

Knows nothing of what the pod is for.
"""

import contextlib
import re
import time
from collections.abc import Iterator

from kctl.backends.cluster.api import Api
from kctl.backends.cluster.errors import cut
from kctl.backends.cluster.watch import snapshots
from kctl.errors import AlreadyExists, KctlError, NotFound, TimedOut
from kctl.manifest import Manifest

START_SECONDS = 120.0
"""For a pod to be scheduled and its image pulled, which the run's pods have, too; an eraser has no longer either."""
_ABSENT = re.compile(r'persistentvolumeclaim "[^"]+" not found')
"""The scheduler's words."""


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
