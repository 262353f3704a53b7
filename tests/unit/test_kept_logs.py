"""Where the kubelet's end of a log follows the beginning on the volume: no line is lost, none is given twice."""

from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.backends.local.files import LocalFiles
from kctl.errors import Damaged
from kctl.run.kept import LINE_LIMIT, lines_of, up_to

LINES = st.lists(st.sampled_from(["a", "b", "", "step=1/2 loss=1"]), max_size=30)


@given(st.lists(st.integers(), unique=True, min_size=1), st.data())
def test_distinct_lines_are_given_once(numbers: list[int], data: st.DataObject) -> None:
    """What the kubelet has begins anywhere; the volume may lag behind it or be ahead of what was read."""
    whole = list(map(str, numbers))
    begin = data.draw(st.integers(0, len(whole) - 1))
    head = whole[begin : begin + data.draw(st.integers(1, 10))]
    volume = whole[: data.draw(st.integers(begin, len(whole)))]
    assert list(chain(up_to(iter(volume), head), whole[begin:])) == whole


@given(LINES, LINES.filter(bool), LINES)
def test_of_lines_that_repeat_none_is_lost(before: list[str], head: list[str], after: list[str]) -> None:
    given_out = list(up_to(iter(before + head + after), head))
    assert given_out[: len(before)] == before and given_out == (before + head + after)[: len(given_out)]


@given(LINES, LINES)
def test_a_head_that_is_nowhere_leaves_all(lines: list[str], rest: list[str]) -> None:
    assert list(up_to(iter(lines), ["not there", *rest])) == lines


def test_a_file_without_ends_of_lines_is_not_held_whole(tmp_path: Path) -> None:
    longest = b"a" * LINE_LIMIT
    (tmp_path / "log").write_bytes(longest + b"\n" + longest * 2 + b"\nlast\n")
    lines = lines_of(LocalFiles(tmp_path), "log")
    assert [len(line) for line in islice(lines, 1)] == [LINE_LIMIT]
    with pytest.raises(Damaged, match="log: a line of more than 4 MiB: not written by a run; look at it"):
        next(lines)
