"""What is printed on terminals of any width, with and without colour, and in pipes; names in wide characters, too."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from rich.cells import cell_len

WIDE = "\u6a21\u578b"  # two characters, four columns
ROWS = [["lora-di3-0123abcd", "Running", WIDE], ["full", WIDE * 3, "cafe\u0301 \x1b[2J"]]
CODE = f"from kctl import console; console.table(('RUN', 'PHASE', 'NOTE'), {ROWS!r}); console.error('no')"


def on_a_terminal(width: int, **environment: str) -> str:
    """What CODE writes there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    with subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **environment},
    ):
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # the other end has closed
        return b""


def test_in_a_pipe_columns_are_aligned_by_what_a_terminal_shows() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    assert [cell_len(line[: line.index(last)]) for line, last in zip(lines, ("NOTE", WIDE, "cafe"), strict=True)] == [
        33
    ] * 3
    assert lines[2].endswith(r"\x1b[2J") and done.stderr == b"error: no\n"


@pytest.mark.parametrize(("width", "environment"), [(24, {}), (40, {}), (80, {}), (24, {"NO_COLOR": "1"})])
def test_nothing_is_lost_on_a_narrow_terminal(width: int, environment: dict[str, str]) -> None:
    seen = on_a_terminal(width, **environment).replace("\x1b[31merror:\x1b[0m", "error:")
    table = seen.partition("error:")[0].replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert all(cell_len(line) <= width for line in table.splitlines())
    assert table.count("\u6a21") == 4 and "\x1b" not in table
    assert "lora-di3-0123abcd" in table, "a name that is cut cannot be copied"
    assert ("RUN    lora-di3-0123abcd" in table) == (width == 24), "no room for columns: a line for each cell"
    if width == 80:
        assert len(table.splitlines()) == 3


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colour_where_it_is_not_wanted(environment: dict[str, str]) -> None:
    seen = on_a_terminal(40, **environment)
    assert "\x1b" not in seen and seen.endswith("error: no\n")
