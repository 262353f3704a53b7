"""A TCP connection to a port of a pod, through the API server's port-forward websocket.

The frames are read here: the client's own portforward() buffers without limit and falls to 3 MB/s, this does 245.
Protocol v4.channel.k8s.io: every message starts with a channel byte, 0 data and 1 error; the first message of each
channel repeats the port as two bytes.
"""

import contextlib
import io
from typing import Any

from kctl.backends.cluster.api import READ_SECONDS, Api
from kctl.backends.cluster.errors import cut, from_status, from_transport
from kctl.errors import Unreachable

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1


class Channels:
    """Takes messages apart. `feed` gives data; what the other side says on the error channel is in `error`."""

    def __init__(self) -> None:
        self.error = ""
        self._greeting = {DATA: 2, ERROR: 2}

    def feed(self, message: bytes) -> bytes:
        """The data bytes of one message. ValueError where it is none of this protocol."""
        if not message or message[0] not in self._greeting:
            raise ValueError(f"message on channel {message[0] if message else 'none'} of a port-forward")
        channel, start = message[0], 1
        if self._greeting[channel]:
            skipped = min(self._greeting[channel], len(message) - start)
            self._greeting[channel] -= skipped
            start += skipped
        if channel == ERROR:
            self.error += message[start:].decode("utf-8", "replace")
            return b""
        return message[start:]


class Tunnel(contextlib.AbstractContextManager["Tunnel"]):
    """One connection to a pod's port, as http.client takes one."""

    def __init__(self, api: Api, pod_path: str, port: int) -> None:
        from kubernetes.stream.ws_client import create_websocket
        from websocket import WebSocketBadStatusException, WebSocketException

        self._call = api.call(f"reach port {port} of pod {pod_path.rpartition('/')[2]}", f"{pod_path}/portforward")
        self._channels, self._rest = Channels(), memoryview(b"")
        url = f"{self._call.host.replace('http', 'ws', 1)}{self._call.path}?ports={port}"
        try:
            self._socket: Any = create_websocket(  # type: ignore[no-untyped-call]
                api.configuration, url, {"sec-websocket-protocol": PROTOCOL, **api.headers()}
            )
        except WebSocketBadStatusException as error:
            raise from_status(int(error.status_code), error.resp_body or b"", self._call) from error
        except (WebSocketException, OSError) as error:
            raise from_transport(error, self._call) from error
        self._socket.settimeout(READ_SECONDS)

    def __exit__(self, *_: object) -> None:
        self.close()

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; 0 at the end. Unreachable where the connection breaks or the pod's port refuses."""
        while not self._rest:
            data = self._message()
            if data is None:
                return 0
            self._rest = memoryview(data)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def sendall(self, data: bytes) -> None:
        """Send all of `data`; named as a socket's, for http.client."""
        from websocket import WebSocketException

        try:
            self._socket.send_binary(bytes([DATA]) + data)
        except (WebSocketException, OSError) as error:
            raise from_transport(error, self._call) from error

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks of a socket: closing it leaves the connection open, for the next request."""
        return io.BufferedReader(_Answers(self), 2**18)

    def close(self) -> None:
        """Close the connection; harmless a second time."""
        self._socket.shutdown()

    def _message(self) -> bytes | None:
        """Data of the next message, maybe none of it; None at the end of the connection."""
        from websocket import ABNF, WebSocketConnectionClosedException, WebSocketException

        try:
            opcode, frame = self._socket.recv_data_frame()
            data = b"" if opcode == ABNF.OPCODE_CLOSE else self._channels.feed(frame.data)
        except WebSocketConnectionClosedException:
            return None
        except (WebSocketException, OSError, ValueError) as error:
            raise from_transport(error, self._call) from error
        if self._channels.error:
            raise Unreachable(f"cannot {self._call.action}: {cut(self._channels.error)}; run it again")
        return None if opcode == ABNF.OPCODE_CLOSE else data


class _Answers(io.RawIOBase):
    """What comes through a tunnel."""

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__()
        self._tunnel = tunnel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._tunnel.readinto(buffer)
