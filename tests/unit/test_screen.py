"""The live screen, drawn without a terminal: what fits at each width, what a trend shows, what a line says."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kctl.backends.run_view import RunView
from kctl.run.gauges import Gauge
from kctl.run.screen import Size, line, page, sparkline, table
from trainer.schema.contract import Phase

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
VIEW = RunView(
    run="lora-di3-0123abcd",
    config="lora-di3",
    phase=Phase.RUNNING,
    step=350,
    steps=1000,
    loss=1.23456,
    eta_s=5400.0,
    code=None,
    sentence="",
    attempt=2,
    created="2026-11-26T10:00:00Z",
    ended="",
    uid="u",
    manifest_sha256="",
    grace_seconds=30,
    deleting=False,
    pods=(),
    tokens_per_s=5210.4,
    mem_gib=31.25,
)
GAUGE = Gauge(VIEW, tuple(3.0 - step / 10 for step in range(20)))
WAITS = Gauge(
    replace(
        VIEW, run="full-di3-00000001", uid="v", phase=Phase.PENDING, step=None, sentence="no node has 8 GPUs \x1b[2J"
    )
)


def drawn(gauges: list[Gauge], width: int, height: int = 24, blocks: bool = True) -> list[str]:
    out = Console(file=StringIO(), width=width, height=height)
    out.print(table(gauges, "in namespace research of context big", NOW, Size(width, height, blocks)))
    assert isinstance(out.file, StringIO)
    return [text.rstrip() for text in out.file.getvalue().splitlines()]


def test_a_wide_screen_shows_everything() -> None:
    title, header, row, other, note = drawn([GAUGE, WAITS], 140)
    assert title.startswith("2 active runs in namespace research of context big, 2026-11-26 ")
    columns = "RUN PHASE PROGRESS STEP LEFT LOSS TREND TOKENS/S GIB ATTEMPT AGE"
    assert header.split() == columns.split()
    bar, trend = "\u2501" * 4 + "\u2500" * 8, row.split()[6]
    assert row.split() == [
        "lora-di3-0123abcd", "Running", bar, "350/1000", "1h30m", "1.2346", trend, "5,210", "31.2", "2", "2h",
    ]  # fmt: skip
    assert len(trend) == 12 and trend[0] == "\u2588" and trend[-1] == "\u2581"
    assert other.split()[:2] == ["full-di3-00000001", "Pending"]
    assert note == r"full-di3-00000001: no node has 8 GPUs \x1b[2J"
    assert all(text.isascii() for text in drawn([GAUGE, WAITS], 140, blocks=False))


@pytest.mark.parametrize(
    ("width", "last"), [(20, "PHASE"), (40, "STEP"), (50, "LOSS"), (56, "LOSS"), (80, "TREND"), (100, "GIB")]
)
def test_a_narrow_screen_drops_the_least_important_columns(width: int, last: str) -> None:
    wide = Gauge(replace(WAITS.view, sentence="\u6a21\u578b" * 30))
    lines = drawn([GAUGE, wide], width)
    assert all(cell_len(text) <= width for text in lines)
    assert lines[1].split()[-1] == last if width > 20 else lines[1].startswith("RUN")
    assert lines[2].startswith("lora-di")


def test_a_low_screen_shows_active_runs_and_says_how_many_more() -> None:
    ended = [Gauge(replace(VIEW, run=f"old-{number}", phase=Phase.SUCCEEDED)) for number in range(30)]
    lines = drawn([*ended, GAUGE], 100, 10)
    assert len(lines) <= 10 and lines[2].startswith("lora-di3-") and "25 more" in lines[-1]
    assert drawn([], 60) == ["0 active runs in namespace research of context big, 2026-11-"[:59] + "\u2026"]


def test_one_run_in_full_and_in_one_line() -> None:
    out = Console(file=StringIO(), width=80)
    out.print(page(GAUGE, " --local", NOW, Size(80, 24)))
    assert isinstance(out.file, StringIO)
    text = out.file.getvalue()
    assert "Speed:    5,210 tokens/s" in text and "Memory:   31.2 GiB at most" in text and "Left:     1h30m" in text
    assert f"Trend:    {sparkline(GAUGE.losses, 60)}" in text and "(2h ago)" in text
    said = line(GAUGE, NOW).partition("  ")[2]
    assert said == (
        "lora-di3-0123abcd  Running  step 350/1000  loss 1.2346  5,210 tokens/s  31.2 GiB  1h30m left  attempt 2"
    )
    assert r"no node has 8 GPUs \x1b[2J" in line(WAITS, NOW)


def test_a_trend_is_the_mean_of_each_share() -> None:
    assert sparkline([0, 7], 8, blocks=False) == "_@"
    assert sparkline([1.0] * 5, 3, blocks=False) == "+++"
    assert sparkline([1, 1, 9, 9], 2, blocks=False) == "_@"
    assert sparkline([math.nan, math.inf], 5) == sparkline([], 5) == sparkline([1.0], 0) == ""


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), max_size=50), st.integers(-1, 20))
def test_a_trend_never_has_more_columns_than_room(values: list[float], width: int) -> None:
    numbers = [value for value in values if not math.isnan(value)]
    assert len(sparkline(values, width)) == max(0, min(width, len(numbers)))


@pytest.mark.parametrize(("zone", "shown"), [("JST-9", "2026-11-26 21:00:00 JST"), ("UTC", "12:00:00 UTC")])
def test_times_are_in_the_zone_of_who_reads_them(zone: str, shown: str) -> None:
    code = "from kctl.run.page import local_time; print(local_time('2026-11-26T12:00:00Z'), local_time('soon'))"
    told = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TZ": zone}, capture_output=True, text=True)
    assert shown in told.stdout and told.stdout.endswith(" soon\n")
