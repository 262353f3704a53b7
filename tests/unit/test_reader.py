"""trainer.reader as its pod runs it: a real process, asked over HTTP."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.reader import open_below

COMMAND = [sys.executable, "-m", "trainer.reader", "--port", "0", "--root"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a secret beside it."""
    base = tmp_path_factory.mktemp("runs")
    (base / "secret").write_text("secret")
    folder = base / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "a b%.bin").write_bytes(bytes(range(256)) * 1000)
    (folder / "empty").write_bytes(b"")
    (folder / "link").symlink_to(base / "secret")
    (folder / "folder-link").symlink_to(base)
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture(scope="module")
def port(root: Path) -> Iterator[int]:
    with subprocess.Popen([*COMMAND, str(root)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = re.search(r"127\.0\.0\.1:(\d+)$", process.stdout.readline())
        assert match is not None
        yield int(match[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def _ask(port: int, target: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def test_bytes_and_ranges(port: int) -> None:
    whole = bytes(range(256)) * 1000
    path = f"/files/adapter/{quote('a b%.bin')}"
    assert _ask(port, path)[:2] == (200, whole)
    for start in (0, 1, 255_999):
        status, body, headers = _ask(port, path, Range=f"bytes={start}-")
        assert (status, body) == (206, whole[start:])
        assert headers["Content-Range"] == f"bytes {start}-255999/256000"
    for wrong in ("bytes=256000-", "bytes=-5", "bytes=1-2", "bytes=a-", "lines=1-", "bytes=" + "9" * 40 + "-"):
        assert _ask(port, path, Range=wrong)[0] == 416
    assert _ask(port, "/files/empty")[:2] == (200, b"")


def test_names(port: int) -> None:
    assert json.loads(_ask(port, "/names/")[1]) == ["empty"]
    assert json.loads(_ask(port, "/names/adapter")[1]) == ["a b%.bin"]
    for nothing in ("/names/absent", "/names/empty", "/names/folder-link", "/names/..", "/names/adapter/.."):
        assert json.loads(_ask(port, nothing)[1]) == []


@pytest.mark.parametrize(
    "path",
    [
        "absent",
        "",
        "adapter",
        "link",
        "folder-link/secret",
        "pipe",
        "../secret",
        "adapter/../../secret",
        "a/\0",
        "./empty",
    ],
)
@pytest.mark.parametrize("encode", [lambda path: quote(path), lambda path: quote(path, safe="").replace(".", "%2e")])
def test_nothing_else_is_served(port: int, path: str, encode: object) -> None:
    assert callable(encode)
    status, body, _ = _ask(port, f"/files/{encode(path)}")
    assert (status, body) == (404, b"")


def test_only_get(port: int) -> None:
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        assert _ask(port, "/files/empty", method)[0] == 501
    assert _ask(port, "/other")[0] == 404


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "", "run", "secret", "link", "folder-link", "adapter", "\0", "a\nb"])))
def test_no_path_leads_out(root: Path, parts: list[str]) -> None:
    try:
        descriptor = open_below(root, "/".join(parts))
    except FileNotFoundError:
        return
    opened = Path(f"/proc/self/fd/{descriptor}").readlink()
    os.close(descriptor)
    assert opened.is_relative_to(root)


def test_a_reader_that_hangs_up_leaves_it_serving(port: int, root: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"/files/adapter/{quote('a b%.bin')}")
    connection.close()
    assert _ask(port, "/files/empty")[0] == 200


def test_ends_when_idle_and_not_before(root: Path) -> None:
    with subprocess.Popen([*COMMAND, str(root), "--idle-seconds", "2"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        for _ in range(3):
            time.sleep(1)
            assert _ask(port, "/files/empty")[0] == 200
        assert process.wait(10) == 0
