"""`kctl top` and `kctl status -w` on real local runs: on a terminal, in a pipe, and left by Ctrl-C."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.cli import run as kctl
from tests.cli.local_jobs import until
from tests.cli.test_local_cli import FOREVER, place, the_run
from trainer.schema.contract import Phase

__all__ = ["place"]  # the fixture
Place = Callable[[str], Local]

FALLING = """
import os, pathlib, time
run = os.environ["TRAINER_POD_NAME"].removesuffix("-master-0")
go = pathlib.Path(os.environ["TRAINER_RUNS"], "go")
print(f"attempt 3 of {run}, newest checkpoint: none")
for step in range(1, 41):
    print(f"step={step}/40 loss={4 - step / 20:.4f} lr=1.0e-03 grad_norm=0.80 tokens_per_s=5210 mem_gib=3.2 eta_s=90")
    if step == 20:
        print(end="", flush=True)
        while not go.exists(): time.sleep(0.05)
"""
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
"""What opens and closes a terminal's other screen."""


@contextlib.contextmanager
def terminal(words: list[str], width: int, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """kctl on a terminal that is `width` wide, and where its screen can be read."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "kctl", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**inherited, "TERM": "xterm-256color", **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(screen: int, *words: str) -> str:
    """What came on the screen up to these words."""
    seen, end = b"", time.monotonic() + 30
    while not all(word in seen.decode(errors="replace") for word in words):
        assert time.monotonic() < end, seen.decode(errors="replace")
        try:
            seen += os.read(screen, 65536)
        except OSError:  # the other end has closed
            raise AssertionError(seen.decode(errors="replace")) from None
    return seen.decode(errors="replace")


def test_a_live_screen_until_ctrl_c(place: Place) -> None:
    local = place(FALLING)
    assert kctl(["submit", "tiny.yaml", "--local"]) == 0
    run = the_run(local)
    with terminal(["top", "--local"], 120) as (process, screen):
        seen = read_until(screen, "20/40", "\u2581")
        assert ENTER in seen and "1 active run locally" in seen and "TOKENS/S" in seen
        assert all(word in seen for word in (run, "Running", "3.0000", "5,210", "3.2", "1m30s", "\u2588\u2587"))
        process.send_signal(signal.SIGINT)
        seen = read_until(screen, LEAVE, run)
        assert process.wait(30) == 130 and process.stderr
        assert process.stderr.read().decode() == "detached; the runs go on. Attach again: kctl top --local\n"
    assert until(local, run, lambda job: True).phase is Phase.RUNNING
    with terminal(["status", "-w", run, "--local"], 40, NO_COLOR="1") as (process, screen):
        seen = read_until(screen, "20/40", "Trend:", "Attempt:  3")
        (local.root / "runs" / "go").touch()
        seen = read_until(screen, LEAVE, "Phase:    Succeeded", "40/40")
        assert process.wait(30) == 0
        assert "\x1b[3" not in seen  # no colour


def test_a_killed_screen_gives_the_terminal_back(place: Place) -> None:
    place(FOREVER)
    with terminal(["top", "--local"], 80) as (process, screen):
        read_until(screen, ENTER, "0 active runs locally")
        process.terminate()
        read_until(screen, LEAVE)
        assert process.wait(30) == 143


def test_lines_in_a_pipe_until_all_have_ended(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    local = place(FALLING)
    assert kctl(["top", "--local"]) == 0
    told = capsys.readouterr()
    assert told.out == "" and "no active runs locally" in told.err
    assert kctl(["submit", "tiny.yaml", "--local"]) == 0
    run = the_run(local)
    watching = subprocess.Popen([sys.executable, "-m", "kctl", "top", "--local"], stdout=subprocess.PIPE, text=True)
    assert watching.stdout
    lines = []
    while not lines or "step 20/40" not in lines[-1]:
        lines.append(watching.stdout.readline())
        assert lines[-1]
    (local.root / "runs" / "go").touch()
    rest, _ = watching.communicate(timeout=30)
    assert watching.returncode == 0 and f"{run}  Succeeded  step 40/40  loss 2.0000" in rest
    assert "  5,210 tokens/s  3.2 GiB  1m30s left  attempt 3" in lines[-1] and "left" not in rest.splitlines()[-1]
    assert not any("\x1b" in line for line in lines)
    capsys.readouterr()
    assert kctl(["status", "tiny", "--local", "--watch"]) == 0
    told = capsys.readouterr()
    assert f"Run:      {run}" in told.out and "Succeeded" in told.out.splitlines()[0]
    assert kctl(["status", "tiny", "--local", "-w", "-o", "json"]) == 2
    assert kctl(["top", "no-such-run", "--local"]) == 4


def test_a_dumb_terminal_gets_lines(place: Place, tmp_path: Path) -> None:
    local = place(FOREVER)
    assert kctl(["submit", "tiny.yaml", "--local"]) == 0
    with terminal(["top", "tiny.yaml", "--local"], 80, TERM="dumb") as (process, screen):
        seen = read_until(screen, "Running  step 1/2  loss 3.5000")
        assert "\x1b" not in seen and the_run(local) in seen
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
