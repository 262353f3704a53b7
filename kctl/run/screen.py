"""How runs look on a live screen, at any width: a table of all, a page of one, and plain lines where nothing can be
drawn. Pure: told what to draw, how wide and at which time.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from kctl import console
from kctl.run.gauges import Gauge
from kctl.run.options import Output
from kctl.run.page import age, local_time, loss_text, span, status_page, step_text
from trainer.schema.contract import Phase

if TYPE_CHECKING:
    from rich.console import RenderableType

_BLOCKS, _ASCII = "".join(map(chr, range(0x2581, 0x2589))), "_.-=+*#@"
"""One eighth of a block to a whole one, and what a terminal without them gets."""
_TREND, _BAR = 12, 12
"""Columns of a trend and of a bar in the table."""
_GAP = 2
_COLOURS = {
    Phase.PENDING: "yellow",
    Phase.QUEUED: "yellow",
    Phase.RUNNING: "green",
    Phase.RESTARTING: "yellow",
    Phase.SUCCEEDED: "bold green",
    Phase.FAILED: "bold red",
    Phase.CANCELLED: "dim",
}


@dataclass(frozen=True)
class Size:
    """Of a terminal, in characters, and whether it can show blocks."""

    width: int
    height: int
    blocks: bool = True


@dataclass(frozen=True)
class _Column:
    """One column; of those that do not fit all the ones with the highest `rank` go first."""

    header: str
    rank: int
    text: Callable[[Gauge, datetime, Size], str]
    right: bool = True


def sparkline(values: Sequence[float], width: int, blocks: bool = True) -> str:
    """`values` as at most `width` characters, each the mean of its share, between the least and the greatest of them;
    numbers that are none are left out."""
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers or width < 1:
        return ""
    count = min(width, len(numbers))
    cuts = [len(numbers) * place // count for place in range(count + 1)]
    means = [sum(numbers[left:right]) / (right - left) for left, right in itertools.pairwise(cuts)]
    low, high, steps = min(means), max(means), _BLOCKS if blocks else _ASCII
    if high == low:
        return steps[len(steps) // 2] * count
    return "".join(steps[min(len(steps) - 1, int((mean - low) / (high - low) * len(steps)))] for mean in means)


def _left(gauge: Gauge) -> str:
    view = gauge.view
    return "-" if view.eta_s is None or not math.isfinite(view.eta_s) or view.phase.finished else span(view.eta_s)


def _bar(gauge: Gauge, size: Size) -> str:
    view = gauge.view
    if view.step is None or not view.steps:
        return ""
    full, empty = ("\u2501", "\u2500") if size.blocks else ("#", ".")
    done = min(_BAR, _BAR * view.step // view.steps)
    return full * done + empty * (_BAR - done)


_COLUMNS = (
    _Column("RUN", 0, lambda gauge, now, size: gauge.view.run, right=False),
    _Column("PHASE", 1, lambda gauge, now, size: str(gauge.view.phase), right=False),
    _Column("PROGRESS", 6, lambda gauge, now, size: _bar(gauge, size), right=False),
    _Column("STEP", 2, lambda gauge, now, size: step_text(gauge.view)),
    _Column("LEFT", 4, lambda gauge, now, size: _left(gauge)),
    _Column("LOSS", 3, lambda gauge, now, size: loss_text(gauge.view)),
    _Column("TREND", 5, lambda gauge, now, size: sparkline(gauge.losses, _TREND, size.blocks), right=False),
    _Column("TOKENS/S", 7, lambda gauge, now, size: _number(gauge.view.tokens_per_s, 0)),
    _Column("GIB", 8, lambda gauge, now, size: _number(gauge.view.mem_gib, 1)),
    _Column("ATTEMPT", 9, lambda gauge, now, size: "-" if gauge.view.attempt is None else str(gauge.view.attempt)),
    _Column("AGE", 10, lambda gauge, now, size: age(gauge.view.created, now)),
)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def _fitting(rows: Sequence[Gauge], now: datetime, size: Size) -> list[_Column]:
    """The most important columns whose texts all fit, in their order."""
    taken: list[_Column] = []
    used = 0
    for column in sorted(_COLUMNS, key=lambda column: column.rank):
        widest = max((len(column.text(gauge, now, size)) for gauge in rows), default=0)
        used += max(widest, len(column.header)) + (_GAP if taken else 0)
        if used > size.width and column.rank > 1:
            break
        taken.append(column)
    return [column for column in _COLUMNS if column in taken]


def table(gauges: Sequence[Gauge], where: str, now: datetime, size: Size) -> "RenderableType":
    """All runs: active ones first, as many as there are lines; below them what each that waits or failed waits for."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = sorted(gauges, key=lambda gauge: gauge.view.settled)
    shown = rows[: max(1, size.height - 4)]
    active = sum(not gauge.view.settled for gauge in rows)
    title = f"{active} active {'run' if active == 1 else 'runs'} {where}, {local_time(now)}"
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    columns = _fitting(shown, now, size)
    for column in columns:
        justify = "right" if column.right else "left"
        drawn.add_column(column.header, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for gauge in shown:
        colour = _COLOURS[gauge.view.phase]
        texts = [Text(column.text(gauge, now, size), colour if column.header == "PHASE" else "") for column in columns]
        drawn.add_row(*texts)
    below = [f"{len(rows) - len(shown)} more: make the window higher"] if len(rows) > len(shown) else []
    below += [f"{gauge.view.run}: {gauge.view.sentence}" for gauge in shown if gauge.view.sentence]
    room = max(0, size.height - 3 - len(shown))
    notes = [Text(console.printable(line), "dim", no_wrap=True, overflow="ellipsis") for line in below[:room]]
    return Group(Text(title, no_wrap=True, overflow="ellipsis"), *([drawn] if shown else []), *notes)


def page(gauge: Gauge, flags: str, now: datetime, size: Size) -> "RenderableType":
    """One run in full, with the trend of its loss."""
    from rich.text import Text

    text = status_page(gauge.view, flags, Output.TABLE, now)
    trend = sparkline(gauge.losses, min(60, size.width - 11), size.blocks)
    return Text(f"{text}\n{'Trend:':<9} {trend}" if trend else text)


def line(gauge: Gauge, now: datetime) -> str:
    """One run in one line, for a file or a pipe."""
    view = gauge.view
    told = [view.run, str(view.phase)]
    if view.step is not None:
        told += [f"step {step_text(view)}", f"loss {loss_text(view)}"]
    if view.tokens_per_s is not None:
        told.append(f"{_number(view.tokens_per_s, 0)} tokens/s")
    if view.mem_gib is not None:
        told.append(f"{_number(view.mem_gib, 1)} GiB")
    if _left(gauge) != "-":
        told.append(f"{_left(gauge)} left")
    if view.attempt is not None:
        told.append(f"attempt {view.attempt}")
    if view.sentence:
        told.append(view.sentence)
    return console.printable(f"{local_time(now)}  {'  '.join(told)}")
