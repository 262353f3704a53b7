"""Takes files for one folder over HTTP on 127.0.0.1: what the pod runs that kctl push writes a volume through.

PUT /PATH?size=N&sha256=HEX with Content-Range adds bytes to a file on its way. POST /begin, /same, /check and /publish
take and give JSON (trainer.staging says what they do); what takes long says so by a space now and then. With
--connection it serves one socket that it was started with, for a volume that is a folder of this machine.
"""

import argparse
import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qs, unquote, urlsplit

from trainer import staging
from trainer.arrival import Arriving, Tick, arriving
from trainer.reader import Handler, Server, serve

BEAT_SECONDS = 1.0
_BODY_LIMIT = 64 << 20
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/\d{1,18}")


class Receiver(Handler):
    """One connection, which may bring one request after the other."""

    def do_PUT(self) -> None:
        """The next bytes of a file; {"sent": how many of it are there now}. All that is sent is read in any case."""
        with self.server.busy():
            body = _Body(self.rfile, int(self.headers.get("Content-Length", 0)))
            try:
                address = urlsplit(self.path)
                asked = {name: values[0] for name, values in parse_qs(address.query).items()}
                match = _RANGE.fullmatch(self.headers.get("Content-Range", ""))
                if match is None or int(match[2]) - int(match[1]) + 1 != body.left:
                    raise ValueError("wants the Content-Range of its bytes")
                file = arriving(unquote(address.path)[1:], int(asked.get("size", -1)), asked.get("sha256"))
                sent = staging.append(self.server.root, file, int(match[1]), cast(BinaryIO, body), body.left)
                answer: dict[str, Any] = {"sent": sent}
            except (OSError, ValueError) as error:
                answer = _failure(error)
            while body.read(1 << 20):
                pass
            self._answer(HTTPStatus.OK, json.dumps(answer).encode())

    def do_POST(self) -> None:
        """What is asked for, as JSON; {"error": a sentence} where it cannot be done."""
        with self.server.busy():
            length = int(self.headers.get("Content-Length", 0))
            act = _ACTS.get(self.path)
            if act is None or length > _BODY_LIMIT:
                self.close_connection = True
                self._answer(HTTPStatus.NOT_FOUND)
                return
            body = self.rfile.read(length)
            self.send_response(HTTPStatus.OK)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                answer = act(self.server.root, json.loads(body), self._tick())
            except (OSError, ValueError, TypeError, KeyError) as error:
                if isinstance(error, ConnectionError):  # nobody listens any more
                    raise
                answer = _failure(error)
            self._chunk(json.dumps(answer).encode())
            self.wfile.write(b"0\r\n\r\n")

    def _tick(self) -> Tick:
        last = time.monotonic()

        def tick() -> None:
            nonlocal last
            if time.monotonic() - last > BEAT_SECONDS:
                last = time.monotonic()
                self._chunk(b" ")

        return tick

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


class _Body:
    """What is left of a request's body."""

    def __init__(self, source: Any, left: int) -> None:
        self._source, self.left = source, left

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at its end, or where the connection broke."""
        try:
            data: bytes = self._source.read1(min(count, self.left)) if self.left else b""
        except (ConnectionError, TimeoutError):
            data = b""
        self.left = self.left - len(data) if data else 0
        return data


def _failure(error: Exception) -> dict[str, str]:
    if isinstance(error, OSError):
        return {"error": f"{error.filename or 'the volume'}: {error.strerror or error}"}
    return {"error": str(error)}


def _files(asked: Any) -> list[Arriving]:
    return [arriving(*one) for one in asked["files"]]


def _begin(root: Path, asked: Any, tick: Tick) -> dict[str, Any]:
    files = _files(asked)
    staging.clean(root, files)
    return {"free": staging.free(root), "files": [staging.found(root, file) for file in files]}


def _same(root: Path, asked: Any, tick: Tick) -> dict[str, Any]:
    return {"same": [staging.same(root, file, tick) for file in _files(asked)]}


def _check(root: Path, asked: Any, tick: Tick) -> dict[str, Any]:
    return {"right": [staging.check(root, file, tick) for file in _files(asked)]}


def _publish(root: Path, asked: Any, tick: Tick) -> dict[str, Any]:
    staging.publish(root, _files(asked), bool(asked["replace"]), tick)
    return {}


_ACTS: dict[str, Callable[[Path, Any, Tick], dict[str, Any]]] = {
    "/begin": _begin,
    "/same": _same,
    "/check": _check,
    "/publish": _publish,
}


def main() -> int:
    """Serve until idle or told to stop, or until the one connection ends."""
    parser = argparse.ArgumentParser(description="take files for one folder on 127.0.0.1")
    parser.add_argument("--connection", type=int, help="a socket's number: serve it alone, and listen nowhere")
    chosen, rest = parser.parse_known_args()
    if chosen.connection is None:
        return serve("take files for one folder", Receiver, rest)
    parser.add_argument("--root", type=Path, required=True)
    root = parser.parse_args().root
    broken = contextlib.suppress(OSError)  # by Ctrl-C at the other end: no event
    with Server(root, None, Receiver) as server, socket.socket(fileno=chosen.connection) as connection, broken:
        Receiver(connection, ("", 0), server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
