"""Long lists of an API server, in pages."""

from pathlib import Path
from typing import Any

import pytest

from kctl.backends.cluster.api import PAGE, Api
from kctl.backends.cluster.kubeconfig import connection
from kctl.errors import Refused, Unreachable
from tests.cli.api_server import ApiServer, serving

PODS = "/api/v1/namespaces/team/pods"


@pytest.fixture()
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with serving() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server, Api(connection(None))


def pods(number: int) -> list[dict[str, Any]]:
    return [{"metadata": {"name": f"pod-{at}", "labels": {"continue": "me"}}} for at in range(number)]


@pytest.mark.parametrize("number", [0, 1, PAGE, PAGE + 1, 3 * PAGE + 7])
def test_every_item_comes_once_and_in_order(asked: tuple[ApiServer, Api], number: int) -> None:
    server, client = asked
    server.answers[PODS] = pods(number)
    assert list(client.pages("list pods", PODS, {"labelSelector": "continue"})) == pods(number)
    assert len(server.requests) == max(1, -(-number // PAGE))


@pytest.mark.parametrize(("answer", "error"), [((403, "no"), Refused), ("<html>", Unreachable)])
def test_what_is_no_list_is_said(asked: tuple[ApiServer, Api], answer: Any, error: type[Exception]) -> None:
    server, client = asked
    server.answers[PODS] = answer
    with pytest.raises(error, match="cannot list pods"):
        list(client.pages("list pods", PODS, {}))
