"""An API server that answers from a table, for what kctl asks and how it tells it. The real one: tests/cluster.

`answers`: path -> object, list of objects, text of a log, or (HTTP status, message). What is not in it is not there.
Deletions are answered, and delete nothing.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Refusal = tuple[int, str]


class ApiServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Any] = {"/version": {"gitVersion": "v1.34.4"}}
        self.denied: set[tuple[str, str]] = set()
        """Rights that we do not have: (verb, resource)."""
        self.requests: list[str] = []
        self.kept: list[str] = []
        """Creations that were no dry run."""

    def kubeconfig(self, path: Path) -> Path:
        """Written to `path`: this server, namespace `team`."""
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server_address[1]}"}}
        context = {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "team"}}
        user = {"name": "u", "user": {"token": "hf_secretsecretsecretsecret"}}
        whole = {"clusters": [cluster], "contexts": [context], "users": [user], "current-context": "test"}
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **whole}))
        return path


@contextmanager
def serving() -> Iterator[ApiServer]:
    """The server, while the block lasts."""
    server = ApiServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: ApiServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.requests.append(f"GET {self.path}")
        answer = self.server.answers.get(parts.path, (404, "not found"))
        asked = parse_qs(parts.query)
        if isinstance(answer, list):
            selectors = [one for values in asked.values() for value in values for one in value.split(",")]
            found = [one for one in answer if all(_matches(one, selector) for selector in selectors)]
            answer = _page(found, asked)
        if isinstance(answer, str):  # a log
            last, first = asked.get("tailLines"), asked.get("limitBytes")
            answer = "".join(answer.splitlines(keepends=True)[-int(last[0]) :]) if last else answer
            answer = answer[: int(first[0])] if first else answer
        self._send(answer)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        self.server.requests.append(f"POST {self.path}")
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if parts.path.endswith("selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, [asked["resource"], asked["subresource"]]))
            self._send({"status": {"allowed": (asked["verb"], resource) not in self.server.denied}})
            return
        if "dryRun=All" not in parts.query:
            self.server.kept.append(self.path)
        self._send(self.server.answers.get(f"POST {parts.path}", body))

    def do_DELETE(self) -> None:
        self.server.requests.append(f"DELETE {self.path}")
        gone = self.server.answers.get(f"DELETE {self.path}", {"kind": "Status", "status": "Success"})
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._send(gone)

    def _send(self, answer: Any) -> None:
        status, kind, content = 200, "application/json", b""
        if isinstance(answer, tuple):
            status, message = answer
            told = {"kind": "Status", "status": "Failure", "message": message}
            folder, _, name = urlsplit(self.path).path.rpartition("/")
            known = folder in self.server.answers  # the kind is there, and only this one is not
            content = json.dumps({**told, "details": {"name": name}} if known else told).encode()
        elif isinstance(answer, str):
            kind, content = "text/plain", answer.encode()
        else:
            content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _page(found: list[Any], asked: dict[str, list[str]]) -> dict[str, Any]:
    """A list, or the page of it that is asked for; the token is the number of the next item."""
    at, limit = (int(asked.get(name, ["0"])[0]) for name in ("continue", "limit"))
    end = at + limit if limit else len(found)
    return {"metadata": {"continue": str(end)} if end < len(found) else {}, "items": found[at:end]}


def _matches(one: dict[str, Any], selector: str) -> bool:
    """A field or label selector as kctl writes them; other parameters (limit) match everything."""
    name, equals, value = selector.partition("=")
    if name.startswith("involvedObject."):
        return str(one["involvedObject"].get(name.partition(".")[2])) == value
    if name == "type":
        return one.get("type") == value
    labels = one["metadata"].get("labels") or {}
    if "/" in name or name == "control-plane":
        return labels.get(name) == value if equals else name in labels
    return True
