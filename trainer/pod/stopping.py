"""Why and since when this pod should stop. Signals are not forwarded at once: torchrun would kill the ranks.

The ranks see a stop file at the end of a step, save, and leave; only who does not is terminated, then killed.
"""

import signal
import time
from types import FrameType

from trainer.errors import Preempted
from trainer.pod.outcome import PREEMPTED

SAVE_SECONDS = 3600.0
"""How long ranks may take to save after max_hours: full-parameter states are hundreds of gigabytes."""


class Stop:
    """Set by signals and by the time limit, read by the loop that waits for the ranks."""

    def __init__(self, grace: float = 300.0) -> None:
        self.grace = grace
        """Seconds from the first signal to the SIGKILL of whoever sent it."""
        self.asked: str | None = None
        """PREEMPTED, TIME_LIMIT or None."""
        self.since = 0.0
        """time.monotonic() of the first signal, or of the time limit."""
        self.at_once = False
        """True after a second signal."""
        self.interrupts = True
        """While no rank runs there is nothing to save: a signal ends whatever the launcher does."""
        self._signals = 0

    def install(self) -> None:
        """Take over SIGTERM and SIGINT of this process (main thread only)."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def ask(self, why: str) -> None:
        """Ask for a stop; the first reason stays."""
        if self.asked is None:
            self.asked, self.since = why, time.monotonic()

    def protect(self) -> None:
        """From here on signals are only noted. Preempted if one came already."""
        self.interrupts = False
        if self.asked is not None:
            raise Preempted("told to stop before training began; submit again to continue")

    @property
    def _patience(self) -> float:
        """Seconds from `since` to the end. Nobody kills the pod when max_hours is over: large states get their time."""
        return self.grace if self._signals else max(self.grace, SAVE_SECONDS)

    @property
    def terminate_at(self) -> float:
        """When ranks that did not obey get SIGTERM: 15 s before the end of the grace (half of a short one)."""
        return self.since if self.at_once else self.since + self._patience - min(15.0, self.grace / 2)

    @property
    def kill_at(self) -> float:
        """When nothing but SIGKILL is left: 3 s before the end of the grace (a fifth of a very short one)."""
        return self.since + self._patience - min(3.0, self.grace / 5)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.at_once = self._signals > 1
        self.ask(PREEMPTED)
        if self._signals == 1:
            self.since = time.monotonic()  # a time limit may have asked before, but now somebody else's clock runs
        if self.interrupts:
            self.interrupts = False
            raise Preempted("told to stop before training began; submit again to continue")
