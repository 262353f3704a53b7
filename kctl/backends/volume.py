"""Writing to a volume: what kctl asks of trainer.receiver, over a connection that may break at any moment.

Of a cluster the receiver runs in a pod, of this machine as a process; every request may be asked again.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from urllib.parse import quote

from kctl.errors import KctlError, Unreachable


class Wire(Protocol):
    """As much of a socket as http.client needs."""

    def sendall(self, data: Any, /) -> None:
        """Send all of it."""
        ...

    def makefile(self, mode: Any, /) -> Any:
        """A buffered file to read from."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


@dataclass(frozen=True)
class VolumeFile:
    """A file as it is to be: its path on the volume, its bytes, its sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Found:
    """What a volume has of a file: bytes of one at its path (None: there is none), and of what was sent before."""

    there: int | None
    sent: int


class Volume:
    """One volume. Unreachable where the connection breaks, KctlError with the receiver's words where it cannot."""

    def __init__(self, name: str, connect: Callable[[], Wire]) -> None:
        self.name = name
        self._connect = connect
        self._http: Any = None

    def begin(self, files: Sequence[VolumeFile]) -> tuple[int, list[Found]]:
        """(free bytes, what is there of each); what an earlier push left of other contents is removed."""
        answer = self._post("/begin", files)
        return int(answer["free"]), [Found(**one) for one in answer["files"]]

    def same(self, file: VolumeFile) -> bool:
        """Whether the file at its path has these bytes."""
        return bool(self._post("/same", [file])["same"][0])

    def append(self, file: VolumeFile, offset: int, chunks: Iterable[bytes], count: int) -> int:
        """Add `chunks`, `count` bytes in all, at `offset`; how many bytes have arrived now."""
        address = f"/{quote(file.path)}?size={file.size}&sha256={file.sha256}"
        place = f"bytes {offset}-{offset + count - 1}/{file.size}"
        return int(self._ask("PUT", address, chunks, {"Content-Length": str(count), "Content-Range": place})["sent"])

    def check(self, file: VolumeFile) -> bool:
        """Whether what has arrived is the file; what is not was removed."""
        return bool(self._post("/check", [file])["right"][0])

    def publish(self, files: Sequence[VolumeFile], replace: bool) -> None:
        """Show all files, which were checked, each at once; without `replace` never over another."""
        self._post("/publish", files, replace=replace)

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _post(self, act: str, files: Sequence[VolumeFile], **more: bool) -> dict[str, Any]:
        asked = {"files": [list(asdict(file).values()) for file in files], **more}
        return self._ask("POST", act, json.dumps(asked).encode(), {})

    def _ask(self, method: str, target: str, body: bytes | Iterable[bytes], headers: dict[str, str]) -> dict[str, Any]:
        import http.client

        try:
            if self._http is None:
                connection = http.client.HTTPConnection("volume")
                connection.auto_open = 0
                connection.sock = self._connect()
                self._http = connection
            self._http.request(method, target, body, headers)
            answer: Any = json.loads(self._http.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Unreachable(f"{self.name}: the connection broke ({type(error).__name__}); push again") from None
        except BaseException:  # in the middle of a request, e.g. by Ctrl-C
            self.close()
            raise
        if "error" in answer:
            raise KctlError(f"{self.name}: {answer['error']}")
        found: dict[str, Any] = answer
        return found
