"""What people and programs read: data on stdout, everything else on stderr.

Colour and bars only on a terminal and never with NO_COLOR; a pipe gets plain aligned columns. rich is imported only to
draw. No credential passes: data loses what has the shape of one, the lines of a log and whatever reaches stderr (cli
wraps it) also what is called one.
"""

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Self, TextIO, cast

from kctl.errors import UsageError
from trainer.schema.redaction import redacted, without_known

SHOWN_SECONDS = 0.02
"""A line of a log may wait so long for others to be written with it."""
DRAWN_SECONDS = 0.1
"""Between two looks of a progress bar."""
FOLDED = 8
"""Columns of a terminal that a column of a table must have; what is longer is folded."""


def data(text: str) -> None:
    """Write `text` to stdout as UTF-8, whatever the locale, with exactly one newline at its end."""
    sys.stdout.flush()
    sys.stdout.buffer.write((without_known(text).rstrip("\n") + "\n").encode("utf-8", "backslashreplace"))
    sys.stdout.flush()


def guarded(stream: TextIO) -> TextIO:
    """`stream`, to which no credential is written."""
    return cast(TextIO, _Guarded(stream))


class _Guarded:
    encoding = "utf-8"
    """Whatever the stream's is: past a stream of ASCII click would write to its bytes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):
            raise AttributeError(f"{name} would go past the guard")
        return getattr(self._stream, name)


class Lines:
    """stdout for many lines: written in blocks, shown within SHOWN_SECONDS. A context; at its end all are out."""

    def __init__(self) -> None:
        out: Any = sys.stdout.buffer  # with PYTHONUNBUFFERED there is no buffer in it
        self._own = io.BufferedWriter(out, 1 << 16) if isinstance(out, io.RawIOBase) else None
        self._out: BinaryIO = self._own or out
        self._unseen, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        sys.stdout.flush()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._unseen.set()
        self._thread.join()
        self._out.flush()
        if self._own is not None:
            self._own.detach()

    def write(self, text: str) -> None:
        """One line. BrokenPipeError where nobody reads any more."""
        self._out.write(text.encode("utf-8", "backslashreplace") + b"\n")
        if not self._unseen.is_set():
            self._unseen.set()

    def _show(self) -> None:
        with contextlib.suppress(OSError):  # the writer meets it, too
            while not self._over:
                self._unseen.wait()
                time.sleep(SHOWN_SECONDS)
                self._unseen.clear()
                self._out.flush()


def say(text: str) -> None:
    """One line of information on stderr."""
    print(printable(text), file=sys.stderr)


def warn(text: str) -> None:
    """One line on stderr that a person should read."""
    print(_coloured("warning:", "33"), printable(text), file=sys.stderr)


def error(text: str) -> None:
    """The one line on stderr that ends a command."""
    print(_coloured("error:", "31"), printable(" ".join(text.split())), file=sys.stderr)


def confirm(question: str, yes: bool) -> None:
    """Return where `yes` was said on the command line or is typed now. UsageError without a terminal to ask at."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to ask at: add --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was deleted")


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """What is told how many bytes are done, and of how many: a bar on stderr where one can be drawn, else nothing.

    It starts no thread: processes may be forked while it is shown.
    """
    if not draws(sys.stderr):
        yield lambda done, size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True))
    speeds = (TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, *speeds, console=Console(stderr=True), transient=True, auto_refresh=False) as shown:
        task, due = shown.add_task(printable(label), total=None), 0.0

        def tell(done: int, size: int) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + DRAWN_SECONDS
                shown.update(task, completed=done, total=size, refresh=True)

        yield tell


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows below headers to stdout: drawn on a terminal, plain aligned columns otherwise.

    A terminal that is too narrow for columns gets a line for each cell.
    """
    lines = [[printable(without_known(cell)) for cell in row] for row in (headers, *rows)]
    widths = [max(columns(line[column]) for line in lines) for column in range(len(headers))]
    if sys.stdout.isatty():
        _draw(lines, widths)
        return
    data(
        "\n".join(
            "  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
    )


def _draw(lines: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if draws(sys.stdout) else Console(color_system=None, force_terminal=False)
    least = [widths[0], *(min(width, FOLDED) for width in widths[1:])]  # a name in two lines could not be copied
    headers, *rows = lines
    if sum(least) + 2 * (len(least) - 1) <= console.width:
        drawn = Table(box=None, pad_edge=False, header_style="bold")
        for place, (header, width) in enumerate(zip(headers, least, strict=True)):
            drawn.add_column(header, overflow="fold", min_width=width, no_wrap=place == 0)
        for row in rows:
            drawn.add_row(*map(Text, row))
    else:
        drawn = Table(box=None, pad_edge=False, show_header=False)
        drawn.add_column(style="bold", no_wrap=True)
        drawn.add_column(overflow="fold")
        for number, row in enumerate(rows):
            for header, cell in zip(headers, row, strict=True):
                drawn.add_row(header, Text(cell))
            if number < len(rows) - 1:
                drawn.add_row()
    console.print(drawn)


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes: a wide character takes two, a combining one none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def printable(text: str) -> str:
    """`text` without control characters: what comes from a cluster must not move the cursor."""
    return "".join(c if c.isprintable() else " " if c in "\t\r\n" else f"\\x{ord(c):02x}" for c in text)


def draws(stream: TextIO) -> bool:
    """True where `stream` is a terminal that may be drawn on."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if draws(sys.stderr) else text
