"""What a command really shows on a terminal, as an SVG: `python -m demo.screenshot FILE.svg kctl validate lora_di3`.

The command runs on a terminal of its own; one that would go on is left by Ctrl-C after --seconds. Of a live screen what
it leaves behind is taken. The file asks for nothing from anywhere: it has no font of its own.
"""

import argparse
import contextlib
import fcntl
import io
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import termios
import threading
from pathlib import Path

from rich.console import Console
from rich.text import Text

_LIVE = re.compile(r"\x1b\[\?1049h.*?\x1b\[\?1049l", re.DOTALL)
"""A terminal's other screen, from its opening to its end."""
_MOVES = re.compile(r"\x1b\[\?\d+[hl]|\x1b\[\d*[A-HJKST]")


def shown(command: list[str], width: int, seconds: float) -> str:
    """What `command` writes on a terminal that is `width` columns wide, with its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    left = threading.Timer(seconds, process.send_signal, [signal.SIGINT])
    left.start()
    seen = b""
    with contextlib.suppress(OSError):  # the other end has closed
        while chunk := os.read(ours, 65536):
            seen += chunk
    process.wait()
    left.cancel()
    os.close(ours)
    return _MOVES.sub("", _LIVE.sub("", seen.decode(errors="replace").replace("\r\n", "\n")))


def svg(command: list[str], text: str, width: int) -> str:
    """A window with the command in its title and `text` in it."""
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text.from_ansi(text.rstrip("\n") + "\n"), overflow="fold")  # an empty line: the last one is clipped
    title = shlex.join([Path(command[0]).name, *command[1:]])  # no path of this machine
    drawn = console.export_svg(title=f"$ {title}")
    return re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", drawn, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.screenshot", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=110, help="columns of the terminal")
    parser.add_argument("--seconds", type=float, default=20.0, help="then Ctrl-C")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if not asked.command:
        parser.error("add the command, e.g. kctl validate lora_di3")
    text = shown(asked.command, asked.width, asked.seconds)
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    asked.file.write_text(svg(asked.command, text, asked.width), encoding="utf-8")


if __name__ == "__main__":
    main()
