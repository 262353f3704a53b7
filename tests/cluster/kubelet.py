"""A node's kubelet as far as logs and port-forward go, so that both travel through the real API server before there are
pods. It says exactly what a test wants and cuts connections where a test wants; the containers behind it do not exist.
"""

import base64
import hashlib
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass
class Log:
    """One container's log: its lines so far, and after how many more lines each connection is cut."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    ended: bool = False
    requests: int = 0

    def after(self, since: str | None) -> list[tuple[str, str]]:
        """The lines at or after `since`, as a kubelet filters them: by whole seconds."""
        return [line for line in self.lines if since is None or line[0][:19] >= since[:19]]


class Kubelet(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1 with a certificate of its own."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kubelet"]
        key, certificate = folder / "kubelet.key", folder / "kubelet.crt"
        subprocess.run(["openssl", *request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.logs: dict[str, Log] = {}
        self.ports: dict[int, int] = {}
        """Port of a pod -> port of this machine that plays it."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Cut connections are the purpose."""


@contextmanager
def serving(folder: Path) -> Iterator[Kubelet]:
    """A kubelet that answers until the block ends."""
    kubelet = Kubelet(folder)
    threading.Thread(target=kubelet.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield kubelet
    finally:
        kubelet.shutdown()
        kubelet.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Kubelet

    def do_GET(self) -> None:
        parts, query = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
        _, kind, _, pod, *_ = parts.path.split("/")
        if kind == "containerLogs":
            self._log(self.server.logs[pod], query)
        elif kind == "portForward":
            self._forward(int(query["port"][0]))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _log(self, log: Log, query: dict[str, list[str]]) -> None:
        log.requests += 1
        follow, since = query.get("follow") == ["true"], query.get("sinceTime", [None])[0]
        cut = log.cuts.pop(0) if follow and log.cuts else None
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        while cut is None or sent < cut:
            lines = log.after(since)[sent : None if cut is None else cut]
            # Odd pieces: lines and characters are cut anywhere.
            data = "".join(f"{stamp} {text}\n" for stamp, text in lines).encode()
            for start in range(0, len(data), 997):
                piece = data[start : start + 997]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(lines)
            if (log.ended or not follow) and not lines:
                self.wfile.write(b"0\r\n\r\n")
                return
            if not lines:
                time.sleep(0.02)
        self.connection.shutdown(socket.SHUT_RDWR)

    def _forward(self, port: int) -> None:
        key = self.headers["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET).digest()).decode()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)):
            self.send_header(name, value)
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        greeting = struct.pack("<H", port)
        self._frame(b"\x00" + greeting)
        self._frame(b"\x01" + greeting)
        try:
            behind = socket.create_connection(("127.0.0.1", self.server.ports[port]))
        except (OSError, KeyError):
            self._frame(b"\x01" + f"error forwarding port {port}: connection refused".encode())
            return
        with behind:
            threading.Thread(target=self._upward, args=(behind,), daemon=True).start()
            while data := behind.recv(32768):
                self._frame(b"\x00" + data)
            self._frame(b"", opcode=8)

    def _upward(self, behind: socket.socket) -> None:
        with suppress(OSError, ValueError, struct.error):
            while True:
                head = self.rfile.read(2)
                if len(head) < 2 or head[0] & 15 == 8:
                    break
                size = head[1] & 127
                if size >= 126:
                    size = struct.unpack(*((">H", self.rfile.read(2)) if size == 126 else (">Q", self.rfile.read(8))))[
                        0
                    ]
                mask, data = self.rfile.read(4), self.rfile.read(size)
                plain = bytes(byte ^ mask[position % 4] for position, byte in enumerate(data))
                behind.sendall(plain[1:])

    def _frame(self, data: bytes, opcode: int = 2) -> None:
        size = len(data)
        length = (
            bytes([size]) if size < 126 else struct.pack(">BH" if size < 65536 else ">BQ", 126 + (size >= 65536), size)
        )
        self.wfile.write(bytes([0x80 | opcode]) + length + data)
