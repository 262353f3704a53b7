"""From answers of an API server (recorded ones and nonsense) to one line with cause, next command and exit code."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import ReadTimeoutError, SSLError

from kctl.backends.cluster.errors import BODY_LIMIT, Busy, Call, Uncounted, cut, from_status, from_transport
from kctl.backends.cluster.kubeconfig import Connection
from kctl.errors import AlreadyExists, KctlError, NotFound, Refused, Unreachable

KUBECTL = Connection(None, "prod", "ml").kubectl
CALL = Call("create PyTorchJob demo-1a2b3c4d", KUBECTL, "https://10.0.0.1:6443", "/apis/kubeflow.org/v1/x")


def _status(message: str, **fields: Any) -> bytes:
    return json.dumps({"kind": "Status", "status": "Failure", "message": message, **fields}).encode()


FORBIDDEN = (
    'pytorchjobs.kubeflow.org is forbidden: User "system:serviceaccount:ml:ci" cannot create resource "pytorchjobs" '
    'in API group "kubeflow.org" in the namespace "ml"'
)
SUBRESOURCE = 'pods "x" is forbidden: User "ann" cannot get resource "pods/log" in API group "" in the namespace "ml"'
BY_ROLE = FORBIDDEN + ': RBAC: role.rbac.authorization.k8s.io "gone" not found'
UNCOUNTED = (
    'pytorchjobs.kubeflow.org "x" is forbidden: status unknown for quota: team, resources: '
    "count/pytorchjobs.kubeflow.org"
)
WEBHOOK = 'Internal error occurred: failed calling webhook "validator.pytorchjob.training-operator": connection refused'


@pytest.mark.parametrize(
    ("code", "body", "kind", "words"),
    [
        (401, _status("Unauthorized"), Refused, ["does not accept the credentials", "--context prod auth whoami"]),
        (403, _status(FORBIDDEN), Refused, ["ml:ci has no right to create pytorchjobs.kubeflow.org in namespace ml"]),
        (403, _status(FORBIDDEN), Refused, ["kubectl --context prod auth can-i create pytorchjobs.kubeflow.org -n ml"]),
        (403, _status(BY_ROLE), Refused, ["auth can-i create pytorchjobs.kubeflow.org -n ml"]),
        (403, _status(SUBRESOURCE), Refused, ["ann has no right to get pods/log", "get pods --subresource=log -n ml"]),
        (403, _status("exceeded quota: gpus, requested: 8, used: 4, limited: 8"), Refused, ["exceeded quota: gpus"]),
        (403, _status(UNCOUNTED), Uncounted, ["unknown for quota: team", "run it again", "describe resourcequota"]),
        (404, b"404 page not found\n", Refused, ["the training operator is not installed", "get crd pytorchjobs"]),
        (404, _status('namespaces "m" not found'), NotFound, ["there is no namespace m", "get namespaces"]),
        (404, _status('pytorchjobs "r" not found', details={"name": "r"}), NotFound, ['"r" not found', "kctl list"]),
        (409, _status("x already exists", reason="AlreadyExists"), AlreadyExists, ["already exists"]),
        (409, _status("modified", reason="Conflict"), Refused, ["at the same moment", "run it again"]),
        (422, _status("spec.replicas: Invalid value"), Refused, ["(422)", "Invalid value", "--dry-run=server"]),
        (400, _status('admission webhook "v" denied the request: no'), Refused, ["denied the request: no"]),
        (500, _status(WEBHOOK), Refused, ["admission webhook does not answer", "validatingwebhookconfigurations"]),
        (500, _status("etcdserver: leader changed"), Busy, ["answers 500", "leader changed"]),
        (429, b"", Busy, ["answers 429", "try again"]),
        (503, b"<html>upstream</html>", Busy, ["answers 503"]),
    ],
)
def test_what_is_said(code: int, body: bytes, kind: type[KctlError], words: list[str]) -> None:
    error = from_status(code, body, CALL)
    assert type(error) is kind
    for word in ["create PyTorchJob demo-1a2b3c4d", *words]:
        assert word in str(error)


def test_exit_codes() -> None:
    assert from_status(403, _status(FORBIDDEN), CALL).exit_code == 6
    assert from_status(503, b"", CALL).exit_code == 5
    assert from_status(404, _status('namespaces "m" not found'), CALL).exit_code == 4


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), (None, 0.0), ("Fri, 13 Nov", 0.0), ("-1", 0.0)])
def test_retry_after(header: str | None, seconds: float) -> None:
    error = from_status(429, b"", CALL, header)
    assert isinstance(error, Busy) and error.retry_after == seconds


def test_inside_a_cluster_no_context_is_named() -> None:
    call = Call("list PyTorchJobs", Connection(None, None, "ml").kubectl, "https://10.0.0.1", "/apis/kubeflow.org/v1/x")
    assert "kubectl auth whoami" in str(from_status(401, b"", call))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"),
            "the certificate of https://10.0.0.1:6443",
        ),
        (
            SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate is not yet valid"),
            "the certificate of https://10.0.0.1:6443 is not yet valid by this machine's clock (2",
        ),
        (ReadTimeoutError(None, "", "Read timed out."), "(timed out)"),  # type: ignore[arg-type]
        (ConnectionRefusedError(111, "Connection refused"), "(connection refused)"),
        (OSError("password=hunter2"), "(OSError)"),
    ],
)
def test_without_an_answer(error: Exception, words: str) -> None:
    said = from_transport(error, CALL)
    assert type(said) is Unreachable and words in str(said) and "hunter2" not in str(said)
    assert "kubectl --context prod cluster-info" in str(said)


@given(st.integers(300, 599), st.one_of(st.binary(max_size=2000), st.text(max_size=2000).map(_status)))
def test_any_answer_becomes_one_short_line(code: int, body: bytes) -> None:
    message = str(from_status(code, body, CALL))
    assert "\n" not in message and len(message) < 4 * BODY_LIMIT


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_status_of_any_shape(value: Any) -> None:
    body = json.dumps({"kind": "Status", "message": value, "details": value, "reason": value}).encode()
    for code in (401, 403, 404, 409, 422, 500):
        assert isinstance(from_status(code, body, CALL), KctlError)


@given(st.text())
def test_cut(text: str) -> None:
    assert len(cut(text)) <= BODY_LIMIT and "\n" not in cut(text)
