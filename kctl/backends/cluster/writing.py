"""A volume of a cluster to write: a pod that has it, and HTTP to it through the API server's port-forward.

The pod is there while somebody writes; where it is killed meanwhile, the next connection starts another.
"""

import contextlib
import time
from collections.abc import Iterator

from kctl.backends.cluster.api import Api
from kctl.backends.cluster.files import LISTEN_SECONDS
from kctl.backends.cluster.pod_life import started
from kctl.backends.cluster.tunnel import Tunnel
from kctl.backends.cluster.volume_pod import volume_at, writer_pod
from kctl.backends.volume import Volume
from kctl.errors import KctlError, NotFound, TimedOut, Unreachable
from kctl.manifest import Manifest
from trainer.schema.contract import READER_PORT


@contextlib.contextmanager
def writable(api: Api, pods_path: str, job: Manifest, mount: str, one_node: bool) -> Iterator[Volume]:
    """The volume that the pods of `job`, a rendered one, have at `mount`; `one_node`: it is attached to one at a time.

    The pod is removed at the end, but for one that did not start: `kubectl describe` says why.
    """
    manifest = writer_pod(job, mount, _users(api, pods_path, job, mount) if one_node else [])
    name = str(manifest["metadata"]["name"])
    remove: tuple[str, str, Manifest] = (f"remove pod {name}, the push is done", f"{pods_path}/{name}", {})
    volume = Volume(f"pod {name}", lambda: Tunnel(api, started(api, pods_path, manifest), READER_PORT))
    try:
        _wait(volume)
        yield volume
    except TimedOut:
        raise
    except BaseException:
        with contextlib.suppress(KctlError):
            api.delete(*remove)
        raise
    else:
        with contextlib.suppress(NotFound, Unreachable):  # it ends by itself, too
            api.delete(*remove)
    finally:
        volume.close()


def _wait(volume: Volume) -> None:
    """Return once the receiver answers. Unreachable if it does not within LISTEN_SECONDS of its pod's start."""
    deadline = None
    while True:
        try:
            volume.begin([])
            return
        except Unreachable:
            deadline = deadline or time.monotonic() + LISTEN_SECONDS
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _users(api: Api, pods_path: str, job: Manifest, mount: str) -> list[Manifest]:
    """The pods that run with the same claim."""
    wanted, _ = volume_at(job, mount)
    claim = (wanted or {}).get("persistentVolumeClaim")
    return [
        pod
        for pod in api.get("list pods", pods_path).get("items") or []
        if pod["status"].get("phase") in ("Pending", "Running")
        and claim in [one.get("persistentVolumeClaim") for one in pod["spec"].get("volumes") or []]
    ]
