"""What a live screen shows of its runs: their jobs and pods looked at again, their logs read on from the last line.

Draws nothing. Logs are read beside the looks, which wait for them a moment only: one node that does not answer must not
blind the screen. Of a run that has ended no log is read any more; one that had ended before anybody looked is left out,
but where it was named.
"""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView
from kctl.errors import KctlError
from kctl.run.find import all_viewed, look
from kctl.run.logs import Begin, Tail, advanced
from trainer.schema.messages import Step, parse_attempt_line, parse_step_line

_FIRST, _FIRST_OF_ALL = 2_000, 6_000
"""Lines that the first look reads of a log, and of all together: the losses of its step lines are the trend until then.
"""
_HEAD = 50
"""Lines at a log's beginning among which the launcher says its attempt."""
_LOSSES = 4_000
"""Losses that are kept of a run: more than any screen has columns."""
_AT_ONCE = 8
_MOMENT = 1.5
"""Seconds that a look waits for logs."""


@dataclass(frozen=True)
class Gauge:
    """One run as it is now, and the losses of its step lines (nats per label), oldest first."""

    view: RunView
    losses: tuple[float, ...] = ()


class _Log:
    """What was read of one job's first pod so far."""

    def __init__(self) -> None:
        self.tail: Tail | None = None
        self.step: Step | None = None
        self.attempt: int | None = None
        self.losses: list[float] = []
        self.idle = threading.Event()
        self.idle.set()

    def read_on(self, backend: Backend, view: RunView, first: int) -> None:
        """The lines that came since, of a pod seen anew the last `first`; none where it has no log yet, nobody may read
        it, or its node is silent."""
        pod = view.pods[0]
        anew = self.tail is None or self.tail.pod != pod.name
        if self.tail is None or anew:
            self.tail = Tail(pod.name, Begin(tail=first))
        with contextlib.suppress(KctlError):
            lines = self.tail.fresh(backend.log_lines(pod.name, False, self.tail.since, self.tail.tail))
            for line in lines:
                self._take(line.text)
            if self.attempt is None and not anew and (pod.life or 1) == 1:
                head = itertools.islice(backend.log_lines(pod.name, False, None), _HEAD)
                self.attempt = next((told for _, text in head if (told := parse_attempt_line(text))), None)

    def _take(self, text: str) -> None:
        self.attempt = parse_attempt_line(text) or self.attempt
        step = parse_step_line(text)
        if step is not None:
            self.step = step
            self.losses = [*self.losses[-_LOSSES:], step.loss]

    def gauge(self, view: RunView) -> Gauge:
        """What pod and log say together; the end's own words win."""
        attempt = self.attempt if view.attempt is None else view.attempt
        if self.step is not None and not (view.phase.finished and view.step is not None):
            view = advanced(view, self.step)
        return Gauge(replace(view, attempt=attempt), tuple(self.losses))


class Gauges:
    """The runs of one screen: those named, else all that are active, or were when this began."""

    def __init__(self, backend: Backend, names: Sequence[str] = ()) -> None:
        self._backend, self._names = backend, names
        self._logs: dict[str, _Log] = {}
        self._ended: dict[str, Gauge] = {}
        self._to_read: queue.SimpleQueue[tuple[_Log, RunView, int]] = queue.SimpleQueue()
        for _ in range(_AT_ONCE):  # daemons, so that a read that hangs does not outlive the screen
            threading.Thread(target=self._read, daemon=True).start()

    def look(self) -> list[Gauge]:
        """The runs as they are now, in the order of their creation; a named one that is gone is left out."""
        if self._names:
            views = [view for name in self._names if (view := look(self._backend, name)) is not None]
        else:
            views = [view for view in all_viewed(self._backend) if view.uid in self._logs or not view.phase.finished]
        fresh = {view.uid: view for view in views if view.uid not in self._ended}
        self._read_on(fresh)
        for uid, view in fresh.items():
            if view.settled and self._logs[uid].idle.is_set():
                self._ended[uid] = self._logs[uid].gauge(view)
        return [self._ended.get(view.uid) or self._logs[view.uid].gauge(view) for view in views]

    def _read_on(self, views: dict[str, RunView]) -> None:
        """Have the logs read that nobody reads already, and wait a moment for all of them."""
        first = min(_FIRST, _FIRST_OF_ALL // max(1, len(views)))
        for uid, view in views.items():
            log = self._logs.setdefault(uid, _Log())
            if view.pods and log.idle.is_set():
                log.idle.clear()
                self._to_read.put((log, view, first))
        deadline = time.monotonic() + _MOMENT
        for uid in views:
            self._logs[uid].idle.wait(max(0.0, deadline - time.monotonic()))

    def _read(self) -> None:
        while True:
            log, view, first = self._to_read.get()
            log.read_on(self._backend, view, first)
            log.idle.set()
