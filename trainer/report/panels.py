"""Which charts the report has: of what the run has measured, and none of what it has not."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.report.chart import Chart, Curve, chart, short
from trainer.report.history import History
from trainer.report.lines import Line, smoothed

MANY = 60
"""Points from which on a noisy line is drawn pale, with its running mean on top."""
HELD_OUT, OTHERS = 2, (1, 3, 4, 5)
"""Colours: of the held-out loss, and of its parts."""
SINGLE = (
    ("lr", "Learning rate", "at each step"),
    ("grad_norm", "Gradient norm", "before clipping"),
    ("tokens_per_s", "Tokens per second", "of all ranks"),
    ("mem_gib", "Memory", "GiB, peak of rank 0"),
    ("gpu_util", "GPU utilisation", "%, rank 0's GPU"),
)
SMOOTH = ("lr", "mem_gib")


@dataclass(frozen=True)
class Panel:
    """One chart with its words; `newest` is the curve whose last value is told beside the title."""

    title: str
    unit: str
    newest: Curve
    chart: Chart

    @property
    def now(self) -> str:
        return short(self.newest.line.values[-1])


def panels(history: History) -> Iterator[Panel]:
    """Every chart that there is something for, over the same steps."""
    marks = sorted({float(one.started_step) for one in history.attempts if 0 < one.started_step < 1e9})
    ways = [("Loss", "nats per token", loss_curves(history)), ("Held-out losses", "nats per token", judged(history))]
    for name, title, unit in SINGLE:
        line = history.drawn.get(name, Line())
        ways.append((title, unit, [Curve(title, line, 1)] if name in SMOOTH else noisy(title, line)))
    for title, unit, curves in ways:
        done = chart(curves, marks, float(history.step))
        if done is not None:
            measured = [curve for curve in curves if len(curve.line)]
            held_out = [curve for curve in measured if curve.colour == HELD_OUT]
            yield Panel(title, unit, (held_out or measured)[-1], done)


def loss_curves(history: History) -> list[Curve]:
    """Training and held-out loss, as on the page and in loss.png."""
    held = history.evaluations.get("loss", Line())
    return [*noisy("training", history.drawn.get("loss", Line())), Curve("held out", held, HELD_OUT, "dots")]


def judged(history: History) -> list[Curve]:
    """The held-out loss and its parts, where it has any."""
    parts = [(name, line) for name, line in history.evaluations.items() if name != "loss"]
    if not parts:
        return []
    colours = [Curve(name, line, OTHERS[place % len(OTHERS)]) for place, (name, line) in enumerate(parts)]
    return [Curve("loss", history.evaluations.get("loss", Line()), HELD_OUT), *colours]


def noisy(name: str, line: Line) -> list[Curve]:
    """One line, or from MANY points on two: each value, and the running mean."""
    if len(line) < MANY:
        return [Curve(name, line, 1)]
    return [Curve(f"{name}, each", line, 1, "raw"), Curve("running mean", smoothed(line), 1)]
