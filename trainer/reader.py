"""Serves one folder, read-only, over HTTP on 127.0.0.1: what a reader pod runs so that kctl can fetch a run's files.

GET /files/PATH with an optional Range: bytes=N- gives a file's bytes, GET /names/FOLDER the names of the files in it
as JSON. No link is followed, nothing but regular files is opened, and the process ends after idle minutes. Standard
library only; kctl reaches it through the API server's port-forward, so it needs no open port and no password.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from trainer.schema.contract import READER_PORT

IDLE_SECONDS = 15 * 60.0
_RANGE = re.compile(r"bytes=(\d{1,18})-")


def open_below(root: Path, path: str, directory: bool = False) -> int:
    """A file descriptor of a regular file (or folder) below `root`. FileNotFoundError for anything else.

    Every component is opened by itself without following links, so a link planted meanwhile leads nowhere.
    """
    parts = [part for part in path.split("/") if part]
    if ".." in parts or "." in parts or "\0" in path:
        raise FileNotFoundError(path)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for position, part in enumerate(parts):
            kind = os.O_DIRECTORY if directory or position < len(parts) - 1 else os.O_NONBLOCK
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=folder)
            os.close(folder)
            folder = inner
        if not directory and not stat.S_ISREG(os.fstat(folder).st_mode):
            raise FileNotFoundError(path)
    except OSError:
        os.close(folder)
        raise FileNotFoundError(path) from None
    return folder


def names(root: Path, path: str) -> list[str]:
    """Names of the regular files directly in a folder below `root`, sorted; none where it does not exist."""
    try:
        folder = open_below(root, path, directory=True)
    except OSError:
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    finally:
        os.close(folder)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: "Server"

    def do_GET(self) -> None:
        """A file's bytes, or a folder's names."""
        with self.server.busy():
            kind, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
            if kind == "names":
                self._answer(HTTPStatus.OK, json.dumps(names(self.server.root, unquote(path))).encode())
            elif kind == "files":
                self._file(unquote(path))
            else:
                self._answer(HTTPStatus.NOT_FOUND)

    def _file(self, path: str) -> None:
        try:
            descriptor = open_below(self.server.root, path)
        except OSError:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            asked = self.headers.get("Range")
            match = _RANGE.fullmatch(asked) if asked is not None else None
            start = int(match[1]) if match else 0
            if (asked is not None and match is None) or (match and start >= size):
                self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, range_=f"bytes */{size}")
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT if match else HTTPStatus.OK)
            if match:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            if size > start and self.connection.sendfile(file, start, size - start) < size - start:
                self.close_connection = True

    def _answer(self, status: HTTPStatus, body: bytes = b"", range_: str | None = None) -> None:
        self.send_response(status)
        if range_ is not None:
            self.send_header("Content-Range", range_)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The pod's log stays empty: kctl is the one who knows what it fetched."""


class Server(ThreadingHTTPServer):
    """Knows how long it has had nothing to do. Without a port it listens nowhere."""

    daemon_threads = True

    def __init__(self, root: Path, port: int | None, handler: type[Handler] = Handler) -> None:
        super().__init__(("127.0.0.1", port or 0), handler, bind_and_activate=port is not None)
        self.root = root
        self.timeout = 1.0
        self._working = 0
        self._last = time.monotonic()

    @contextlib.contextmanager
    def busy(self) -> Any:
        """Not idle meanwhile."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            self._last = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last answer; 0 while one is being given."""
        return 0.0 if self._working else time.monotonic() - self._last

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away in the middle is no event."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def serve(what: str, handler: type[Handler], argv: Sequence[str]) -> int:
    """Serve until idle or told to stop; `what`: for --help."""
    parser = argparse.ArgumentParser(description=f"{what} on 127.0.0.1")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=READER_PORT)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    chosen = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Server(chosen.root, chosen.port, handler) as server:
        print(f"serving {chosen.root} on 127.0.0.1:{server.server_address[1]}", flush=True)
        while server.idle_seconds < chosen.idle_seconds:
            server.handle_request()
    return 0


def main() -> int:
    """Serve the folder read-only."""
    return serve("serve one folder read-only", Handler, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
