"""What a person is told when the cluster cannot be reached or says no: the cause, the next command, the exit code."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kctl.backends.cluster.backend import Cluster
from kctl.backends.cluster.errors import Uncounted
from kctl.errors import KctlError, NotFound, Refused, Unreachable, UsageError
from tests.cluster.jobs import config_map, job
from tests.cluster.shell import Shell


@pytest.fixture()
def kubeconfig_with(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a kubeconfig like the cluster's own with changes, and makes it the current one."""
    raw = shell.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "yaml")

    def write(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **top: Any) -> Path:
        content = yaml.safe_load(raw)
        content["clusters"][0]["cluster"].update(cluster or {})
        if user is not None:
            content["users"][0]["user"] = user
        content.update(top)
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        monkeypatch.setenv("KUBECONFIG", str(path))
        return path

    return write


@pytest.fixture()
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _said(error: type[KctlError], namespace: str, context: str | None = None) -> str:
    started = time.monotonic()
    with pytest.raises(error) as caught:
        Cluster(namespace, context).list_jobs()
    assert time.monotonic() - started < 10
    assert caught.type is error
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def test_no_kubeconfig(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    message = _said(UsageError, shell.namespace)
    assert "no kubeconfig" in message and "KUBECONFIG" in message and "--local" in message


def test_unknown_context_names_the_known_ones(kubeconfig_with: Any, shell: Shell) -> None:
    known = yaml.safe_load(kubeconfig_with().read_text())["contexts"][0]["name"]
    message = _said(UsageError, shell.namespace, "prod")
    assert "there is no context 'prod'" in message and known in message and "--context" in message


def test_no_current_context(kubeconfig_with: Any, shell: Shell) -> None:
    path = kubeconfig_with(**{"current-context": ""})
    assert "no current context" in _said(UsageError, shell.namespace)
    name = yaml.safe_load(path.read_text())["contexts"][0]["name"]
    assert Cluster(shell.namespace, name).list_jobs() == []


@pytest.mark.parametrize("text", ["", "[1, 2]", "clusters: {", "contexts: 3", "just words", "\x00"])
def test_damaged_kubeconfig(text: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert str(tmp_path / "config") in _said(UsageError, shell.namespace)


def test_nobody_listens(kubeconfig_with: Any, shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    kubeconfig_with({"server": f"https://127.0.0.1:{port}"})
    message = _said(Unreachable, shell.namespace)
    assert "connection refused" in message and f"127.0.0.1:{port}" in message and "cluster-info" in message


def test_name_does_not_resolve(kubeconfig_with: Any, shell: Shell) -> None:
    kubeconfig_with({"server": "https://nowhere.invalid:6443"})
    assert "does not resolve" in _said(Unreachable, shell.namespace)


def test_a_server_that_is_silent_in_the_handshake(kubeconfig_with: Any, silent_port: int, shell: Shell) -> None:
    kubeconfig_with({"server": f"https://127.0.0.1:{silent_port}"})
    assert "timed out" in _said(Unreachable, shell.namespace)


def test_certificate_of_another_authority(kubeconfig_with: Any, shell: Shell, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.crt"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other"]
    subprocess.run(["openssl", *request, "-keyout", "/dev/null", "-out", wrong], check=True, capture_output=True)
    path = kubeconfig_with({"certificate-authority": str(wrong)})
    content = yaml.safe_load(path.read_text())
    content["clusters"][0]["cluster"].pop("certificate-authority-data", None)
    path.write_text(yaml.safe_dump(content))
    assert "certificate" in _said(Unreachable, shell.namespace)


def test_expired_credentials(kubeconfig_with: Any, shell: Shell) -> None:
    kubeconfig_with(user={"token": "long.gone"})
    message = _said(Refused, shell.namespace)
    assert "does not accept the credentials" in message and "auth whoami" in message and "long.gone" not in message


def test_a_failing_credential_plugin_is_named(
    kubeconfig_with: Any, shell: Shell, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false", "interactiveMode": "Never"}
    kubeconfig_with(user={"exec": plugin})
    message = _said(Refused, shell.namespace)
    assert "no credentials" in message and "exec" in message
    assert capfd.readouterr().err == ""


def test_a_credential_plugin_works(kubeconfig_with: Any, shell: Shell, tmp_path: Path) -> None:
    token = shell.kubectl("create", "token", "default").strip()
    status = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    (tmp_path / "answer").write_text(json.dumps(status))
    plugin = {"apiVersion": status["apiVersion"], "command": "cat", "args": [str(tmp_path / "answer")]}
    kubeconfig_with(user={"exec": {**plugin, "interactiveMode": "Never"}})
    message = _said(Refused, shell.namespace)
    assert f"system:serviceaccount:{shell.namespace}:default has no right to list" in message


def test_a_missing_right_is_named(kubeconfig_with: Any, shell: Shell) -> None:
    shell.kubectl("create", "serviceaccount", "reader")
    shell.kubectl("create", "role", "reader", "--verb=get,list,watch", "--resource=pytorchjobs.kubeflow.org,pods")
    shell.kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={shell.namespace}:reader")
    kubeconfig_with(user={"token": shell.kubectl("create", "token", "reader").strip()})
    shell.kubectl("create", "-f", "-", stdin=json.dumps(job("there-11111111")))
    reader = Cluster(shell.namespace, None)
    assert len(reader.list_jobs()) == 1 and reader.get_job("nobody-00000000") is None
    with pytest.raises(Refused) as caught:
        reader.create([job("denied-11111111")])
    message = str(caught.value)
    assert "reader has no right to create pytorchjobs.kubeflow.org in namespace" in message
    assert f"auth can-i create pytorchjobs.kubeflow.org -n {shell.namespace}" in message
    with pytest.raises(Refused, match="no right to create configmaps in namespace"):
        reader.create([config_map("denied-11111111-abcdef")])
    with pytest.raises(Refused, match=r"no right to patch pytorchjobs\.kubeflow\.org"):
        reader.suspend("denied-11111111", {})
    with pytest.raises(Refused, match=r"no right to delete pytorchjobs\.kubeflow\.org"):
        reader.delete("there-11111111", 5)


def test_a_quota_that_is_not_counted_yet(shell: Shell, cluster: Cluster) -> None:
    """As in a quota's first moments: nothing was made, so the same request is sent again until somebody counted."""
    counted = "count/pytorchjobs.kubeflow.org"
    with shell.quota("young", {counted: "9"}):
        forgotten = json.dumps({"status": {"used": None}})
        shell.kubectl("patch", "resourcequota", "young", "--subresource=status", "--type=merge", "-p", forgotten)
        with pytest.raises(Uncounted, match=r"status unknown for quota: young.*run it again"):
            cluster.create([job("early-11111111")])
        changed = json.dumps({"spec": {"hard": {counted: "8"}}})  # whoever counts looks again at a new limit
        later = threading.Timer(1.5, shell.kubectl, ("patch", "resourcequota", "young", "--type=merge", "-p", changed))
        later.start()
        cluster.create([job("early-11111111")])
        later.join()


def test_a_namespace_that_is_missing(cluster: Cluster) -> None:
    nowhere = Cluster("kctl-test-nowhere", None)
    assert nowhere.list_jobs() == []
    with pytest.raises(NotFound, match="there is no namespace kctl-test-nowhere; choose one with -n"):
        nowhere.create([job("lost-11111111")])


def test_an_operator_that_is_not_installed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {("kubeflow.org/v1", "PyTorchJob"): ("/apis/kubeflow.org/v1", "absentjobs")}
    monkeypatch.setattr("kctl.backends.cluster.backend.RESOURCES", places)
    with pytest.raises(Refused, match="the training operator is not installed"):
        cluster.create([job("early-11111111")])


def test_something_else_answers(kubeconfig_with: Any, shell: Shell) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>"

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(page)

    threading.Thread(target=serve, daemon=True).start()
    with server:
        kubeconfig_with({"server": f"http://127.0.0.1:{server.getsockname()[1]}"})
        assert "no API server" in _said(Unreachable, shell.namespace)
        server.shutdown(socket.SHUT_RDWR)


def test_too_many_requests_are_waited_out(kubeconfig_with: Any, shell: Shell) -> None:
    """The real server cannot be made to answer 429 on demand: this one does so twice, then says there is nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    busy = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    empty = b'{"kind": "List", "items": []}'
    fine = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(empty), empty)

    def serve() -> None:
        for answer in (busy, busy, fine):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    with server:
        kubeconfig_with({"server": f"http://127.0.0.1:{server.getsockname()[1]}"})
        started = time.monotonic()
        assert Cluster(shell.namespace, None).list_jobs() == []
        assert 2 <= time.monotonic() - started < 5
