"""Each line of a container's log once, wherever the connection is cut and however often."""

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.backends.cluster.logs import _STAMPED, Given, decoded_lines

STAMPS = st.tuples(st.integers(0, 6), st.integers(0, 3)).map(lambda at: f"2026-11-23T23:15:0{at[0]}.{at[1]:09d}Z")
LINES = st.lists(st.tuples(STAMPS, st.sampled_from(["", "step=1", "step=2 loss=1.0", "  indented"])), max_size=40)


def _taken(tail: Given, lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return tail.take([f"{stamp} {text}" for stamp, text in lines])


def _served(lines: list[tuple[str, str]], since: str | None) -> list[tuple[str, str]]:
    """As a kubelet: lines at or after `since`, which has whole seconds."""
    return [line for line in lines if since is None or line[0][:19] >= since[:19]]


@given(LINES, st.lists(st.integers(0, 40), max_size=5))
def test_cut_anywhere_nothing_is_lost_or_doubled(lines: list[tuple[str, str]], cuts: list[int]) -> None:
    """Stamps rise but for less than a second, as two writers make them."""
    lines.sort(key=lambda line: line[0][:19])
    tail, out = Given(None), []
    for cut in [*cuts, len(lines)]:
        tail.reconnected()
        out += _taken(tail, _served(lines[:cut], tail.since))
    assert Counter(out) == Counter(lines)


ODD = ("", "Z", "no stamp", "2026-11-23T23:15:01.5Z", "2026-11-23T23:15:01.Z x", "2026-11-23T23:15:01.5Zx")
SENT = st.lists(st.one_of(st.tuples(STAMPS, st.sampled_from(["", "step=1"])).map(" ".join), st.sampled_from(ODD)))


@given(SENT)
def test_a_look_at_the_stamp_is_as_good_as_reading_it(lines: list[str]) -> None:
    plain, stamp = [], ""
    for line in lines:
        match = _STAMPED.fullmatch(line)
        stamp = match[1] if match else stamp
        plain.append((stamp, match[4] if match else line))
    assert Given(None).take(lines) == plain


@given(LINES)
def test_in_order(lines: list[tuple[str, str]]) -> None:
    tail = Given(None)
    tail.reconnected()
    assert _taken(tail, lines) == lines


def test_a_reconnect_never_asks_for_more_than_was_asked_at_first() -> None:
    tail = Given("2026-11-23T23:15:05Z")
    tail.reconnected()
    tail.take(["2026-11-23T23:15:06.5Z one"])
    assert tail.since == "2026-11-23T23:15:05Z"
    tail.take(["2026-11-23T23:15:09.5Z two"])
    assert tail.since == "2026-11-23T23:15:07Z"


def test_zones_and_lines_without_a_stamp() -> None:
    tail = Given(None)
    tail.reconnected()
    assert tail.take(["2026-11-24T00:15:06.5+01:00 one"]) == [("2026-11-24T00:15:06.5+01:00", "one")]
    assert tail.since == "2026-11-23T23:15:04Z"
    assert tail.take(["failed to watch file"]) == [("2026-11-24T00:15:06.5+01:00", "failed to watch file")]
    assert tail.take(["2026-11-24T00:15:07Z"]) == [("2026-11-24T00:15:07Z", "")]


@pytest.mark.parametrize(
    "words",
    [
        "unable to retrieve container logs for containerd://89a591a3c9f8",
        'rpc error: code = NotFound desc = an error occurred when try to find container "3490e98f32a0": not found',
        'failed to try resolving symlinks in path "/var/log/pods/a/pytorch/0.log": no such file or directory',
    ],
)
def test_a_container_that_is_gone_says_nothing(words: str) -> None:
    """Words of kubelets that had removed it before, or while, its log was read."""
    assert Given(None).take([words]) == []
    said = f"2026-11-23T23:15:06.5Z {words}"
    assert Given(None).take([said]) == [tuple(said.split(" ", 1))], "the container's own line"


def test_memory_is_bounded_by_seconds() -> None:
    tail = Given(None)
    for minute in range(60):
        for second in range(60):
            tail.take([f"2026-11-23T23:{minute:02d}:{second:02d}Z line"])
    assert len(tail._given) <= 4


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n")), st.data())
def test_characters_are_whole_wherever_the_bytes_are_cut(text: str, data: st.DataObject) -> None:
    raw = f"{text}\n{text}\n".encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert list(chain(*decoded_lines(iter(pieces)))) == [text, text]


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_any_bytes_are_some_lines(chunks: list[bytes]) -> None:
    lines = list(chain(*decoded_lines(iter(chunks))))
    assert "\n".join(lines) == b"".join(chunks).decode("utf-8", "replace").removesuffix("\n") or not b"".join(
        chunks
    ).strip(b"\n")


def test_only_the_last_lines_are_asked_for_once() -> None:
    given = Given(None, tail=2)
    assert (given.tail, given.begun) == (2, False)
    given.reconnected()
    last = [("2026-11-23T23:15:06.5Z", "three"), ("2026-11-23T23:15:06.61Z", "four")]
    assert _taken(given, last) == last and given.begun
    given.reconnected()  # a new connection sends what came before the first of them, too
    again = [("2026-11-23T23:15:05Z", "one"), ("2026-11-23T23:15:06.49Z", "two"), *last]
    assert _taken(given, [*again, ("2026-11-23T23:15:07Z", "five")]) == [("2026-11-23T23:15:07Z", "five")]
