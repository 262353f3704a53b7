"""Starts the program that writes the report: rank 0 while it trains, the launcher at an attempt's end."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

EVERY = 60.0
"""Seconds after which a report is old while a run trains."""
APART = 10.0
"""Seconds between two reports at least, however often a run is evaluated."""


def command(folder: Path) -> list[str]:
    """What writes the report of the run in `folder`."""
    return [sys.executable, "-m", "trainer.report", str(folder)]


class Reporter:
    """Rank 0's: at most one report is being written at a time, and no step waits for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = time.monotonic() - APART
        self._evaluated = False

    def evaluated(self) -> None:
        """There is something new to show: at once, or at one of the next steps."""
        self._evaluated = True
        self.step()

    def step(self) -> None:
        """A step is over: the report is made anew where it is time, unless that is still going on."""
        over = self._process is None or self._process.poll() is not None
        if over and time.monotonic() - self._begun >= (APART if self._evaluated else EVERY):
            self._begun, self._evaluated = time.monotonic(), False
            # It is no rank, and nobody shall take it for one who looks for ranks among the processes.
            environ = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
            with contextlib.suppress(OSError):  # no process is to be had now: a later step tries again
                self._process = subprocess.Popen(command(self._folder), env=environ, stdin=subprocess.DEVNULL)

    def close(self) -> None:
        """Training is over; the launcher writes the last report."""
        if self._process is not None:
            self._process.wait()


def write_report(folder: Path, own: Mapping[str, str], seconds: float) -> str:
    """The report as of now, or none within `seconds`; what went wrong, in a line. `own`: environment on top of ours."""
    environ, limit = {**os.environ, **own}, max(0.0, seconds)
    try:
        done = subprocess.run(
            command(folder), env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no new report: it was not ready after {limit:.0f} s"
    except OSError as error:
        return f"no new report: {error.strerror}"
    return done.stderr.decode("utf-8", errors="replace").strip()
