"""A TCP relay before the API server, for what a network does to one person alone: it counts bytes, cuts, and is slow.

The kernels of the test machines have no netem, so a slow link is made here: what TCP's own windows would do on it is
not, since both sides talk to this machine.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Queue

import yaml

from tests.cluster.shell import Shell

PIECE = 2**14
UNDER_WAY = 256
"""Pieces of a connection that the link holds at most, 4 MiB: who reads slower than it stops the sender."""
BUFFER_SECONDS = 0.02
"""What a link's sender may be ahead of it, as in a router: a thread that wakes late leaves no gap then."""


@dataclass(frozen=True)
class Link:
    """A line between two places, the same in both directions."""

    bytes_per_second: float
    delay: float
    """Seconds one way."""


class Direction:
    """One direction of a link, whose rate all connections share."""

    def __init__(self, link: Link) -> None:
        self._link, self._free, self._lock = link, 0.0, threading.Lock()

    def carried(self, source: socket.socket) -> Iterator[bytes]:
        """What `source` sends, when it has come through."""
        under_way = Queue[tuple[float, bytes]](UNDER_WAY)
        threading.Thread(target=self._send, args=(source, under_way), daemon=True).start()
        while True:
            due, data = under_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                return
            yield data

    def _send(self, source: socket.socket, under_way: "Queue[tuple[float, bytes]]") -> None:
        data = b"first"
        while data:
            try:
                data = source.recv(PIECE)
            except OSError:
                data = b""
            with self._lock:
                self._free = max(self._free, time.monotonic()) + len(data) / self._link.bytes_per_second
                sent = self._free
            under_way.put((sent + self._link.delay, data))
            time.sleep(max(0.0, sent - time.monotonic() - BUFFER_SECONDS))


class Relay:
    """Listens on a port of this machine and passes everything on to `target`, at once or as a link would."""

    def __init__(self, target: tuple[str, int], link: Link | None = None) -> None:
        self.received = 0
        """Bytes that came back from `target` so far."""
        self._connect_seconds = 2 * link.delay if link else 0.0  # the handshake with us takes none
        self._forth, self._back = (Direction(link), Direction(link)) if link else (None, None)
        self._target, self._open = target, set[socket.socket]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection as a router does that loses it: what was sent arrives, nothing more comes."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open |= {near, far}
            threading.Thread(target=self._connect, args=(near, far), daemon=True).start()

    def _connect(self, near: socket.socket, far: socket.socket) -> None:
        time.sleep(self._connect_seconds)
        with near, far:
            forth = threading.Thread(target=self._pass_on, args=(near, far, self._forth), daemon=True)
            forth.start()
            self._pass_on(far, near, self._back, counted=True)
            forth.join()
            self._open -= {near, far}

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, direction: Direction | None, counted: bool = False
    ) -> None:
        with suppress(OSError):
            for data in direction.carried(source) if direction else iter(lambda: source.recv(2**16), b""):
                sink.sendall(data)
                self.received += len(data) if counted else 0
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(shell: Shell, link: Link | None = None) -> Iterator[tuple[Relay, str]]:
    """A relay, and the text of a kubeconfig that goes through it."""
    content = yaml.safe_load(shell.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    cluster = content["clusters"][0]["cluster"]
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    relay = Relay((host, int(port)), link)
    cluster["server"] = f"https://127.0.0.1:{relay.port}"
    yield relay, yaml.safe_dump(content)
    relay.close()
