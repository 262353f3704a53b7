"""What a live screen shows of its runs: their jobs and pods looked at again, their logs read on from the last line.

Draws nothing. A run that has ended costs no call any more; one that had ended before anybody looked is left out, but
where it was named.
"""

import contextlib
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView, run_view
from kctl.errors import NotFound, Refused
from kctl.manifest import Manifest
from kctl.run.find import listed, viewed
from kctl.run.logs import Begin, Tail, advanced
from trainer.schema.messages import Step, parse_attempt_line, parse_step_line

_FIRST = 2_000
"""Lines of a log that the first look reads: the losses of its step lines are the trend until then."""
_HEAD = 50
"""Lines at a log's beginning among which the launcher says its attempt."""
_LOSSES = 4_000
"""Losses that are kept of a run: more than any screen has columns."""
_AT_ONCE = 8


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

    def read_on(self, backend: Backend, view: RunView) -> None:
        """The lines that came since; none where the pod has no log yet, or nobody may read it."""
        pod = view.pods[0]
        if self.tail is None or self.tail.pod != pod.name:
            self.tail = Tail(pod.name, Begin(tail=_FIRST))
        with contextlib.suppress(NotFound, Refused):
            lines = self.tail.fresh(backend.log_lines(pod.name, False, self.tail.since, self.tail.tail))
            for line in lines:
                self._take(line.text)
            if self.attempt is None and (pod.life or 1) == 1:
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

    def look(self) -> list[Gauge]:
        """The runs as they are now, in the order of their creation; a named one that is gone is left out."""
        if self._names:
            jobs = [job for name in self._names if (job := self._backend.get_job(name)) is not None]
        else:
            jobs = listed(self._backend)
        wanted = [job for job in jobs if self._names or self._shown(job)]
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            return list(pool.map(self._gauge, wanted))

    def _shown(self, job: Manifest) -> bool:
        return job["metadata"].get("uid", "") in self._logs or not run_view(job, ()).phase.finished

    def _gauge(self, job: Manifest) -> Gauge:
        uid = job["metadata"].get("uid", "")
        if uid in self._ended:
            return self._ended[uid]
        view, log = viewed(self._backend, job), self._logs.setdefault(uid, _Log())
        if view.pods:
            log.read_on(self._backend, view)
        gauge = log.gauge(view)
        if view.settled:
            self._ended[uid] = gauge
        return gauge
