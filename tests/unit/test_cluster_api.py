"""Long lists of an API server, in pages."""

import json
from pathlib import Path
from typing import Any

import pytest

from kctl.backends.cluster import api
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


def test_who_stops_early_asks_for_one_page_ahead(asked: tuple[ApiServer, Api]) -> None:
    server, client = asked
    server.answers[PODS] = pods(5 * PAGE)
    found = client.pages("list pods", PODS, {})
    assert next(found)["metadata"]["name"] == "pod-0"
    found.close()  # type: ignore[attr-defined]
    assert len(server.requests) == 2


@pytest.mark.parametrize(("answer", "error"), [((403, "no"), Refused), ("<html>", Unreachable)])
def test_what_is_no_list_is_said(asked: tuple[ApiServer, Api], answer: Any, error: type[Exception]) -> None:
    server, client = asked
    server.answers[PODS] = answer
    with pytest.raises(error, match="cannot list pods"):
        list(client.pages("list pods", PODS, {}))


ITEMS = [{"metadata": {"annotations": {"continue": "no", "note": '{"items":[1],"continue":"no"}'}}}]


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ({"metadata": {"continue": "a=", "remainingItemCount": 7}, "items": ITEMS}, "a="),
        ({"metadata": {"resourceVersion": "1"}, "items": ITEMS}, ""),
        ({"items": ITEMS, "metadata": {"continue": "b"}}, "b"),
        ({"items": [], "metadata": {"continue": ""}}, ""),
        ({"items": None, "metadata": {"continue": "c"}}, "c"),
        ({"metadata": None}, ""),
        (["items"], ""),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["as servers write", "with spaces"])
def test_the_next_page_is_known_before_the_items_are_parsed(value: Any, token: str, separators: Any) -> None:
    assert api._next_page(json.dumps(value, separators=separators).encode()) == token
