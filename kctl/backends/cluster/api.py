"""One connection to an API server: requests with timeouts, bounded retries and mapped errors.

Configuration, credentials and TLS are the official client's. Requests go through its connection pool as plain JSON,
since its typed models need 1.7 s for a list that json reads in 0.15 s.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from kctl.backends.cluster.errors import Busy, Call, Uncounted, from_status, from_transport
from kctl.backends.cluster.kubeconfig import Connection
from kctl.errors import Unreachable
from kctl.manifest import Manifest

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
RETRY_SECONDS = 6.0
"""A read is tried again for this long, so that a dead server is reported within 10 s."""
PAGE = 250
LONGEST_PAUSE = 4.0
"""Seconds between two tries, also where the server's Retry-After asks for more."""

_METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"

Query = dict[str, str]
Answer = TypeVar("Answer")

MANAGER = {"fieldManager": "kctl"}
"""In the query of a write."""


class Api:
    """The API server of one connection. Errors are those of kctl.errors; `action` says in words what was tried."""

    def __init__(self, connection: Connection) -> None:
        from kubernetes.client.rest import RESTClientObject
        from urllib3 import disable_warnings
        from urllib3.exceptions import InsecureRequestWarning

        disable_warnings(InsecureRequestWarning)  # who wrote insecure-skip-tls-verify knows it
        self.connection = connection
        self._configuration = connection.configuration
        self._configuration.keep_alive = True
        self._pool = RESTClientObject(self._configuration).pool_manager
        self._ahead = timedelta()
        """How far the server's clock is ahead of ours, by its newest answer."""

    @property
    def now(self) -> datetime:
        """The time on the server, to a second; ours before it has answered."""
        return datetime.now(UTC) + self._ahead

    def call(self, action: str, path: str) -> Call:
        """A request's description for its error messages."""
        return Call(action, self.connection.kubectl, self._configuration.host, path)

    def get(self, action: str, path: str, query: Query | None = None) -> Manifest:
        """GET as JSON, repeated on 429, 5xx and cut connections for RETRY_SECONDS."""
        call = self.call(action, path)
        return retried(lambda left: self._json("GET", call, query, None, min(CONNECT_SECONDS, left)))

    def pages(self, action: str, path: str, query: Query) -> Iterator[Manifest]:
        """The items of a list that may be long, in pages of PAGE: a whole one would have to fit in memory as text."""
        asked = {**query, "limit": str(PAGE)}
        while True:
            found = self.get(action, path, asked)
            yield from found.get("items") or []
            more = found["metadata"].get("continue")
            if not more:
                return
            asked = {**asked, "continue": str(more)}

    def metadata(self, action: str, path: str) -> Manifest:
        """GET of an object's metadata alone: what else is in it stays on the server."""
        call = self.call(action, path)
        return retried(lambda left: self._json("GET", call, None, None, min(CONNECT_SECONDS, left), _METADATA))

    def post(self, action: str, path: str, body: Manifest, query: Query | None = None) -> Manifest:
        """POST, repeated only where nothing was made for sure: else the caller compares what is there."""
        call = self.call(action, path)
        return retried(lambda _: self._json("POST", call, query, body), Uncounted)

    def merge_patch(self, action: str, path: str, body: Manifest, query: Query | None = None) -> Manifest:
        """PATCH as JSON merge patch, never repeated."""
        return self._json("PATCH", self.call(action, path), query, body)

    def delete(self, action: str, path: str, body: Manifest) -> Manifest:
        """DELETE with DeleteOptions, never repeated."""
        return self._json("DELETE", self.call(action, path), None, body)

    def stream(self, action: str, path: str, query: Query, read_seconds: float) -> Iterator[bytes]:
        """GET whose body arrives in chunks, as they come. Unreachable when it is cut or silent for `read_seconds`."""
        from urllib3.exceptions import HTTPError

        call = self.call(action, path)
        response = self._open("GET", call, query, None, (CONNECT_SECONDS, read_seconds))
        try:
            yield from response.stream(2**16)
        except (HTTPError, OSError) as error:
            raise from_transport(error, call) from error
        finally:
            response.close()

    def headers(self) -> dict[str, str]:
        """Who we are, for this request; the client renews a token that is about to expire."""
        setting = self._configuration.auth_settings().get("BearerToken")
        return {"authorization": str(setting["value"])} if setting else {}

    @property
    def configuration(self) -> Any:
        """The client's own configuration, for its websocket."""
        return self._configuration

    def _json(
        self,
        method: str,
        call: Call,
        query: Query | None,
        body: Manifest | None,
        connect: float = CONNECT_SECONDS,
        accept: str = "application/json",
    ) -> Manifest:
        from urllib3.exceptions import HTTPError

        # Compressed, a list of a thousand pods is a tenth as long, and takes less of a processor than its decryption.
        wanted = {"accept": accept, "accept-encoding": "gzip"}
        response = self._open(method, call, query, body, (connect, READ_SECONDS), wanted)
        try:
            value = json.loads(response.read(decode_content=True))
        except (HTTPError, OSError) as error:
            raise from_transport(error, call) from error
        except (ValueError, RecursionError):
            value = None
        finally:
            response.release_conn()
        if not isinstance(value, dict):
            raise Unreachable(
                f"cannot {call.action}: {call.host} answers, but with no JSON object: it is no API server, "
                f"or a proxy stands between; check with: {call.kubectl} cluster-info"
            )
        return value

    def _open(
        self,
        method: str,
        call: Call,
        query: Query | None,
        body: Manifest | None,
        seconds: tuple[float, float],
        wanted: dict[str, str] | None = None,
    ) -> Any:
        """The response, its body unread; any status but 2xx is raised."""
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            response = self._pool.request(
                method,
                call.host + call.path + (f"?{urlencode(query)}" if query else ""),
                headers={"accept": "application/json", "user-agent": "kctl", **(wanted or {}), **self.headers()}
                | ({"content-type": content} if body is not None else {}),
                body=None if body is None else json.dumps(body).encode(),
                timeout=Timeout(connect=seconds[0], read=seconds[1]),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            self._compare_clocks(response.headers.get("date", ""))
            if 200 <= response.status <= 299:
                return response
            answer = response.read(2**16)
            response.close()
        except (HTTPError, OSError) as error:
            raise from_transport(error, call) from error
        raise from_status(response.status, answer, call, response.headers.get("retry-after"))

    def _compare_clocks(self, date: str) -> None:
        with contextlib.suppress(ValueError):  # a proxy's answer may have none, or none that can be read
            self._ahead = parsedate_to_datetime(date).astimezone(UTC) - datetime.now(UTC)


def retried(attempt: Callable[[float], Answer], after: type[Unreachable] = Unreachable) -> Answer:
    """attempt(seconds left), again `after` such an error until RETRY_SECONDS are over; then its last error."""
    deadline, pause = time.monotonic() + RETRY_SECONDS, 0.25
    while True:
        try:
            return attempt(max(0.5, deadline - time.monotonic()))
        except after as error:
            asked = error.retry_after if isinstance(error, Busy) else 0.0
            wait = min(LONGEST_PAUSE, max(pause, asked))
            if time.monotonic() + wait >= deadline:
                raise
        time.sleep(wait)
        pause *= 2
