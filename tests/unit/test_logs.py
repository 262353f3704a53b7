"""Times, durations and tails: whatever a stream repeats, each line is given once."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.backends.times import log_time, nanoseconds, sortable
from kctl.errors import UsageError
from kctl.run.logs import Begin, Tail, parse_duration, since_time

START = 1_700_000_000


def _trimmed(moment: int) -> str:
    """As Go writes it: without zeros at the end of the fraction."""
    return log_time(moment)[:-1].rstrip("0").rstrip(".") + "Z"


@given(st.lists(st.integers(0, 4_000_000_000_000_000_000).map(lambda moment: moment // 10**6 * 10**6)))
def test_times_sort_as_texts(moments: list[int]) -> None:
    assert [nanoseconds(text) for text in sorted(map(sortable, map(_trimmed, moments)))] == sorted(moments)
    assert sortable("2026-11-24T00:15:06.5+01:00") == "2026-11-23T23:15:06.500000000Z"


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_a_log_time_is_read_back(moment: int) -> None:
    assert nanoseconds(log_time(moment)) == moment


def test_times_in_other_spellings() -> None:
    assert nanoseconds("2026-11-23T10:00:00Z") == nanoseconds("2026-11-23T11:00:00.000+01:00")
    assert nanoseconds("2026-11-23T10:00:00.5Z") - nanoseconds("2026-11-23T10:00:00Z") == 500_000_000
    for wrong in ("", "now", "2026-11-23", "2026-11-23 10:00:00Z", "2026-13-23T10:00:00Z"):
        with pytest.raises(ValueError):
            nanoseconds(wrong)


@given(st.text())
def test_any_text_is_a_duration_or_a_usage_error(text: str) -> None:
    try:
        assert parse_duration(text, "--since") >= 0
    except UsageError as error:
        assert "--since" in str(error)


def test_durations() -> None:
    for text, seconds in {"90": 90, "90s": 90, "10m": 600, "1h30m": 5400, "2d": 172800, "0.5s": 0.5}.items():
        assert parse_duration(text, "--timeout") == seconds
    for wrong in ("", "m", "10 m", "-5s", "1h30", "10x", "1e3"):
        with pytest.raises(UsageError):
            parse_duration(wrong, "--timeout")
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert since_time("2026-11-23T10:00:00Z")(now) == "2026-11-23T10:00:00Z"
    assert since_time("10m")(now) == "2026-11-23T11:50:00.000000Z"


@given(
    st.lists(st.integers(0, 3_000_000_000), max_size=40).map(sorted),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_a_tail_over_cut_streams_gives_each_line_once(offsets: list[int], cuts: list[int]) -> None:
    """The log has repeated times and repeated texts; every stream starts at the whole second of `since`."""
    log = [
        (log_time(START * 10**9 + offset // 10**8 * 10**8), str(number % 3)) for number, offset in enumerate(offsets)
    ]

    def stream(since: str | None, length: int) -> Iterator[tuple[str, str]]:
        first = 0 if since is None else nanoseconds(since) // 10**9 * 10**9
        lines = [line for line in log if nanoseconds(line[0]) >= first]
        return iter(lines[:length])

    tail = Tail("pod", Begin())
    given_out: list[tuple[str, str]] = []
    for length in [*cuts, len(log), len(log)]:
        given_out += [(line.time, line.text) for line in tail.fresh(stream(tail.since, length))]
    assert given_out == log


def test_a_tail_that_starts_late_gives_what_the_stream_has() -> None:
    tail = Tail("pod", Begin("2026-11-23T10:00:00Z"))
    lines = [("2026-11-23T10:00:00Z", "a"), ("2026-11-23T10:00:00Z", "b"), ("", "of the server")]
    assert [line.text for line in tail.fresh(iter(lines))] == ["a", "b", "of the server"]
    assert [line.text for line in tail.fresh(iter([*lines, ("2026-11-23T10:00:01Z", "c")]))] == ["c"]
