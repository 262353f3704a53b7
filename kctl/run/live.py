"""Runs watched live: a screen drawn again and again on a terminal, a line for each change anywhere else.

Only looks: Ctrl-C leaves the runs as they are. A cluster that does not answer is borne with as logs -f does it.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from kctl import console
from kctl.backends.trouble import GIVE_UP_SECONDS, Trouble
from kctl.errors import Refused, Unreachable
from kctl.run.gauges import Gauge
from kctl.run.screen import Size, line
from trainer.schema.redaction import redacted

if TYPE_CHECKING:
    from rich.console import RenderableType

_TURN = 2.0
"""Seconds between looks."""

Look = Callable[[], list[Gauge]]
Draw = Callable[[list[Gauge], Size], "RenderableType"]
Over = Callable[[Sequence[Gauge]], bool]


def screens() -> bool:
    """True where stdout is a terminal whose screen can be drawn on; colours are rich's matter, which knows NO_COLOR."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def all_settled(gauges: Sequence[Gauge]) -> bool:
    """True where nothing will change any more."""
    return all(gauge.view.settled for gauge in gauges)


def watch(look: Look, draw: Draw, over: Over, now: Callable[[], datetime], again: str) -> list[Gauge]:
    """Show the runs until they are `over`, and return them as they are then. Ctrl-C: exit code 130; `again` attaches
    once more."""
    try:
        return _on_screen(look, draw, over) if screens() else _in_lines(look, over, now)
    except KeyboardInterrupt:
        console.say(f"detached; the runs go on. Attach again: {again}")
        raise typer.Exit(130) from None


def _on_screen(look: Look, draw: Draw, over: Over) -> list[Gauge]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    terminal, trouble = Console(), Trouble(GIVE_UP_SECONDS)
    gauges: list[Gauge] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the terminal would keep this screen

    def drawn() -> "RenderableType":
        return draw(gauges, Size(terminal.width, terminal.height, terminal.encoding.startswith("utf")))

    try:
        with Live(console=terminal, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    gauges = look()
                except (Unreachable, Refused) as error:
                    live.update(Group(Text(console.printable(redacted(str(error))), "yellow"), drawn()), refresh=True)
                    trouble.again(error)
                    continue
                trouble.over()
                live.update(drawn(), refresh=True)
                if over(gauges):
                    break
                time.sleep(_TURN)
    finally:
        if gauges:
            terminal.print(drawn())  # the screen's own is gone with it
    return gauges


def _in_lines(look: Look, over: Over, now: Callable[[], datetime]) -> list[Gauge]:
    trouble = Trouble(GIVE_UP_SECONDS)
    told: dict[str, tuple[object, ...]] = {}
    while True:
        try:
            gauges = look()
        except (Unreachable, Refused) as error:
            trouble.again(error)
            continue
        trouble.over()
        for gauge in gauges:
            view = gauge.view
            news = (view.phase, view.step, view.attempt, view.sentence)
            if told.get(view.uid) != news:
                told[view.uid] = news
                console.data(line(gauge, now()))
        if over(gauges):
            return gauges
        time.sleep(_TURN)
