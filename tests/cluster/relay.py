"""A TCP relay before the API server, for what a network does to one person alone: it counts bytes, and cuts."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import yaml

from tests.cluster.shell import Shell


class Relay:
    """Listens on a port of this machine and passes everything on to `target`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.received = 0
        """Bytes that came back from `target` so far."""
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
        with near, far:
            forth = threading.Thread(target=self._pass_on, args=(near, far, False), daemon=True)
            forth.start()
            self._pass_on(far, near, True)
            forth.join()
            self._open -= {near, far}

    def _pass_on(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
                self.received += len(data) if back else 0
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(shell: Shell) -> Iterator[tuple[Relay, str]]:
    """A relay, and the text of a kubeconfig that goes through it."""
    content = yaml.safe_load(shell.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    cluster = content["clusters"][0]["cluster"]
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    relay = Relay((host, int(port)))
    cluster["server"] = f"https://127.0.0.1:{relay.port}"
    yield relay, yaml.safe_dump(content)
    relay.close()
