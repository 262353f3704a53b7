"""A run's folder on a cluster: a reader pod, and plain HTTP to it through the API server's port-forward.

The reader stays for the next call and ends by itself when idle; it goes with its job in any case.
"""

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from kctl.backends.cluster.api import Api
from kctl.backends.cluster.pod_life import started
from kctl.backends.cluster.tunnel import Tunnel
from kctl.backends.cluster.volume_pod import by_volume, catalog_pod, reader_pod
from kctl.backends.protocol import RunFiles
from kctl.errors import NotFound, Unreachable
from kctl.manifest import Manifest
from trainer.schema.contract import LABEL_JOB_NAME, READER_PORT

CHUNK = 2**20
LISTEN_SECONDS = 15.0
"""From the container's start until the reader answers."""
GET = "GET {target} HTTP/1.1\r\nHost: reader\r\nConnection: close\r\n{range}\r\n"


@contextmanager
def reader_files(api: Api, pods_path: str, job: Manifest, pods: list[Manifest]) -> Iterator[RunFiles]:
    """The job's folder through its reader pod, which is started where none is running."""
    files = ClusterFiles(api, started(api, pods_path, reader_pod(job, pods)))
    files.wait()
    yield files


@contextmanager
def folders_of(
    api: Api, pods_path: str, jobs: Sequence[Manifest], pods: Sequence[Manifest]
) -> Iterator[Mapping[str, RunFiles]]:
    """The folders of many jobs, by run: one reader pod a volume.

    It is made from a job that is at work, where one is: a ReadWriteOnce volume is attached to that one's node.
    """
    found: dict[str, RunFiles] = {}
    for group in by_volume(jobs):
        owns = [[pod for pod in pods if pod["metadata"]["labels"].get(LABEL_JOB_NAME) == _name(job)] for job in group]
        job, own = max(zip(group, owns, strict=True), key=lambda pair: _at_work(pair[1]))
        path = started(api, pods_path, catalog_pod(job, own))
        ClusterFiles(api, path).wait()
        found |= {_name(one): ClusterFiles(api, path, f"{_name(one)}/") for one in group}
    yield found


def _at_work(pods: list[Manifest]) -> int:
    """2 with a pod that runs, 1 with one that was placed on a node, else 0."""
    placed = [pod for pod in pods if pod["spec"].get("nodeName")]
    return 2 if any(pod["status"].get("phase") == "Running" for pod in placed) else int(bool(placed))


def _name(job: Manifest) -> str:
    return str(job["metadata"]["name"])


class ClusterFiles:
    """RunFiles over one reader pod; every call is a connection of its own, so a cut one leaves no trace.

    `below`: what comes before every path, where the pod serves more than one run's folder.
    """

    def __init__(self, api: Api, pod_path: str, below: str = "") -> None:
        self._api = api
        self._pod_path = pod_path
        self._below = below

    def wait(self) -> None:
        """Return once the reader answers. Unreachable if it does not within LISTEN_SECONDS."""
        deadline = time.monotonic() + LISTEN_SECONDS
        while True:
            try:
                self.names("")
                return
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in `folder`, sorted; empty where it does not exist."""
        with Tunnel(self._api, self._pod_path, READER_PORT) as tunnel:
            response = self._get(tunnel, f"/names/{quote(self._below + folder)}", "")
            try:
                found: Any = json.loads(response.read())
            except (ValueError, http.client.HTTPException) as error:
                raise Unreachable(
                    f"cannot list {folder!r}: the reader's answer was cut ({error}); run it again"
                ) from None
        return [str(name) for name in found]

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `offset` on. NotFound if it is not there, Unreachable where it is cut."""
        with Tunnel(self._api, self._pod_path, READER_PORT) as tunnel:
            response = self._get(
                tunnel, f"/files/{quote(self._below + path)}", f"Range: bytes={offset}-\r\n" if offset else ""
            )
            if response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return
            if response.status == http.HTTPStatus.NOT_FOUND:
                raise NotFound(f"{path} is not on the runs volume; has the run written it yet? see: kctl status")
            left = response.length or 0
            while left:
                chunk = response.read(min(CHUNK, left))
                if not chunk:
                    raise Unreachable(f"{path}: the connection was cut {left} bytes before the end; run it again")
                left -= len(chunk)
                yield chunk

    def _get(self, tunnel: Tunnel, target: str, range_: str) -> http.client.HTTPResponse:
        tunnel.sendall(GET.format(target=target, range=range_).encode())
        # It needs nothing of a socket but makefile().
        response = http.client.HTTPResponse(tunnel)  # type: ignore[arg-type]
        try:
            response.begin()
        except http.client.HTTPException as error:
            raise Unreachable(f"the reader pod gave no answer ({type(error).__name__}); run it again") from None
        return response
