"""A chart as fractions of its area: where its points, ticks and labels lie. Drawn by page.html, and by picture.py."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.report.lines import Line, thinned

STEEP = 20.0
"""Highest value over the median from which on a chart of positive values is logarithmic: one spike would flatten it."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart. `look`: raw, bold or dots, with a colour's number from 1 on."""

    name: str
    line: Line
    colour: int
    look: str = "bold"


@dataclass(frozen=True)
class Drawn:
    """A curve's points in fractions (x from the left, y from the bottom) beside its values."""

    curve: Curve
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """All in fractions of the chart's area."""

    curves: list[Drawn]
    ticks_x: list[tuple[float, str]]
    ticks_y: list[tuple[float, str]]
    marks: list[float]
    """Where attempts began anew."""


def chart(curves: Sequence[Curve], marks: Sequence[float] = (), steps: float = 0.0) -> Chart | None:
    """The chart of all curves that have points; None where none has. `steps`: where the axis ends at least."""
    shown = [(curve, thinned(curve.line)) for curve in curves if len(curve.line)]
    if not shown:
        return None
    values = [value for _, line in shown for value in line.values]
    first, last = 0.0, max(1.0, steps, *(line.steps[-1] for _, line in shown))
    low, high = min(values), max(values)
    logarithmic = low > 0 and high > STEEP * statistics.median(values)
    ticks = log_ticks(low, high) if logarithmic else round_ticks(low, high)
    ends = (min(low, ticks[0]), max(high, ticks[-1]))
    scaled = (math.log10(ends[0]), math.log10(ends[1])) if logarithmic else ends

    def across(step: float) -> float:
        return (step - first) / (last - first)

    def up(value: float) -> float:
        at = math.log10(value) if logarithmic else value
        return (at - scaled[0]) / (scaled[1] - scaled[0]) if scaled[1] > scaled[0] else 0.5

    drawn = [
        Drawn(curve, [(across(step), up(value)) for step, value in zip(line.steps, line.values, strict=True)])
        for curve, line in shown
    ]
    across_ticks = [step for step in round_ticks(first, last) if first <= step <= last and step == int(step)]
    ticks_x = [(across(step), short(step)) for step in across_ticks]
    return Chart(
        drawn,
        ticks_x,
        [(up(value), short(value)) for value in ticks],
        [across(mark) for mark in marks if first < mark < last],
    )


def round_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers, equally far apart, of which the first is at most `low` and the last at least `high`."""
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-200):  # a flat line lies in the middle
        room = size / 10 if size > 1e-200 else 1.0
        low, high = low - room, high + room
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    apart = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    begin, end = math.floor(low / apart + 1e-9), math.ceil(high / apart - 1e-9)
    return [place * apart for place in range(begin, end + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around `low` and `high`, at most about six."""
    begin, end = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, -(-(end - begin) // 5))
    return [10.0**power for power in range(begin, end + every, every)]


def short(value: float) -> str:
    """At most about six characters: 0.25, 12.5, 5,210, 52.1k, 2e-4."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-2 or size >= 1e9:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    for least, letter in ((1e6, "M"), (1e4, "k")):
        if size >= least:
            return f"{value / (least if letter == 'M' else 1e3):.4g}{letter}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
