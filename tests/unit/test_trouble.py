"""How long a failing cluster is borne with, on the real clock."""

import time

import pytest

from kctl.backends import trouble
from kctl.backends.trouble import Trouble
from kctl.errors import KctlError, Refused, Unreachable


def _borne(trouble: Trouble, error: KctlError) -> float:
    """Seconds until `error` is raised at last."""
    begun = time.monotonic()
    with pytest.raises(type(error)) as caught:
        while True:
            trouble.again(error)
    assert caught.value is error
    return time.monotonic() - begun


def test_silence_is_borne_and_then_told() -> None:
    assert 0.5 < _borne(Trouble(0.5), Unreachable("away")) < 3


def test_a_refusal_is_meant_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "PATIENCE_SECONDS", 0.3)
    assert 0.3 < _borne(Trouble(60), Refused("no")) < 3


def test_an_answer_starts_it_anew() -> None:
    bears = Trouble(0.5)
    _borne(bears, Unreachable("away"))
    bears.over()
    assert _borne(bears, Unreachable("away again")) > 0.5


def test_not_beyond_the_deadline() -> None:
    assert _borne(Trouble(60, time.monotonic() + 0.5), Unreachable("away")) < 0.5
