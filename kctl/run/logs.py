"""Following logs across dropped streams, recreated pods and several pods, with no line lost and none twice.

A tail remembers the time of its last line and how many lines of that time it has given; a stream that starts again
from that time (an API server knows whole seconds only) is skipped up to there.
"""

import contextlib
import itertools
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from kctl.backends.protocol import Backend, LogSource
from kctl.backends.run_view import PodView, RunView
from kctl.backends.times import nanoseconds, sortable
from kctl.backends.trouble import GIVE_UP_SECONDS, Trouble
from kctl.errors import KctlError, NotFound, Refused, Unreachable, UsageError
from kctl.run.find import look
from kctl.run.kept import WholeLogs
from kctl.run.settle import say_what_it_waits_for
from trainer.schema.messages import Step, parse_attempt_line, parse_step_line

_POLL_SECONDS = 0.5
_LAST_SECONDS = 60.0
"""How long the streams of a run that has ended may take to end."""
_IDLE_SECONDS = 5.0
"""Longest pause between looks at a pod that has ended while the run goes on."""
_RETRY_SECONDS = 2.0
_RETRIES = 30
"""Streams in a row that the cluster may fail to give before a tail gives up: a minute."""
RECENT, AT_A_GLANCE = 200, 20
"""Lines among which the newest step line is looked for first, of one run and of each of many: days of log are not read
for it."""
_AT_ONCE, _AHEAD, _BLOCK = 4, 200, 1_000
"""Pods that are read at once, blocks of each that may wait for their turn, lines of a block."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class LogLine(NamedTuple):
    """One line of one pod."""

    pod: str
    time: str
    text: str


def parse_duration(text: str, what: str) -> float:
    """Seconds in `90`, `90s`, `10m`, `1h30m` or `2d`; UsageError names `what`."""
    parts = re.findall(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text or (len(parts) > 1 and not parts[-1][1]):
        raise UsageError(f"{what}: write a duration like 90s, 10m or 1h30m, got {text!r}")
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


def since_time(text: str) -> Callable[[datetime], str]:
    """--since, a duration or an RFC 3339 time: what says, given the time now (UTC), which RFC 3339 time it means."""
    try:
        nanoseconds(text)
    except ValueError:
        back = timedelta(seconds=min(parse_duration(text, "--since"), 1e9))
        return lambda now: (now - back).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return lambda now: text


@dataclass(frozen=True)
class Begin:
    """Where to begin: at a time (RFC 3339), and of what is there then with the last `tail` lines of each pod."""

    since: str | None = None
    tail: int | None = None


class Tail:
    """What was given of one pod's log so far."""

    def __init__(self, pod: str, begin: Begin) -> None:
        self.pod, self.since, self.tail = pod, begin.since, begin.tail
        self._newest = sortable(begin.since) if begin.since else ""
        self._seen = 0

    def fresh(self, lines: Iterator[tuple[str, str]]) -> Iterator[LogLine]:
        """The lines of a stream that starts at or before `since`, without those given before."""
        catching_up, last, to_skip = self._seen > 0, self._newest, self._seen
        for stamp, text in lines:
            moment = sortable(stamp) if stamp else self._newest
            if catching_up and moment <= last and (moment < last or to_skip > 0):
                to_skip -= moment == last
                continue
            catching_up = False
            self.tail = None  # from here on the time of the last line says where to go on
            if moment > self._newest or not self._seen:
                self.since, self._newest, self._seen = stamp or self.since, moment, 0
            self._seen += moment == self._newest
            yield LogLine(self.pod, stamp, text)


def read_all(source: LogSource, pods: list[str], begin: Begin) -> Iterator[LogLine]:
    """What is there now, pod after pod; those that come next are fetched meanwhile."""

    def of(pod: str) -> Iterator[LogLine]:
        # One stream repeats nothing, so that there is no tail to keep.
        return itertools.starmap(partial(LogLine, pod), source.log_lines(pod, False, begin.since, begin.tail))

    if len(pods) < 2:
        for pod in pods:
            yield from of(pod)
        return
    over, waiting = threading.Event(), list(pods)
    fetched: dict[str, queue.Queue[list[LogLine] | KctlError]] = {}
    try:
        for pod in pods:
            while waiting and len(fetched) < _AT_ONCE:
                ahead = waiting.pop(0)
                fetched[ahead] = queue.Queue(maxsize=_AHEAD)
                threading.Thread(target=_fetch, args=(of(ahead), fetched[ahead], over), daemon=True).start()
            while block := fetched[pod].get():
                if isinstance(block, KctlError):
                    raise block
                yield from block
            del fetched[pod]
    finally:
        over.set()


def _fetch(lines: Iterator[LogLine], into: "queue.Queue[list[LogLine] | KctlError]", over: threading.Event) -> None:
    """Everything of `lines` in blocks, or its error; an empty block is the end. Nothing more once it is over."""

    def put(item: list[LogLine] | KctlError) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                into.put(item, timeout=0.5)
                return

    try:
        while not over.is_set() and (block := list(itertools.islice(lines, _BLOCK))):
            put(block)
    except KctlError as error:
        put(error)
    put([])


def follow_run(backend: Backend, run: str, wanted: Callable[[PodView], bool], begin: Begin) -> Iterator[LogLine]:
    """Every line of the wanted pods, as it comes, until the run has settled and everything was given.

    A pod that comes later is given whole. Ends with the error of the first tail that had to give up.
    """
    lines: queue.Queue[LogLine | KctlError] = queue.Queue(maxsize=10_000)
    over, give_up = threading.Event(), 0.0
    threads: dict[str, threading.Thread] = {}
    trouble, said, source = Trouble(GIVE_UP_SECONDS), set[str](), WholeLogs(backend, run)
    try:
        while True:
            job = _looked_at(backend, run, trouble)
            if job is not None:
                say_what_it_waits_for(job, said)
            settled = job is None or job.settled
            for pod in job.pods if job else ():
                if wanted(pod) and pod.name not in threads:
                    arguments = (source, Tail(pod.name, begin), lines, over)
                    threads[pod.name] = threading.Thread(target=_follow_pod, args=arguments, daemon=True)
                    threads[pod.name].start()
            begin = replace(begin, tail=None)
            if settled:
                over.set()
            yield from _arrived(lines, time.monotonic() + _POLL_SECONDS)
            if settled and not any(thread.is_alive() for thread in threads.values()):
                yield from _arrived(lines, 0.0)
                return
            if settled and time.monotonic() > (give_up := give_up or time.monotonic() + _LAST_SECONDS):
                return
    finally:
        over.set()


def _looked_at(backend: Backend, run: str, trouble: Trouble) -> RunView | None:
    """The run now, or as soon as the cluster answers again."""
    while True:
        try:
            view = look(backend, run)
        except (Unreachable, Refused) as error:
            trouble.again(error)
            continue
        trouble.over()
        return view


def _arrived(lines: "queue.Queue[LogLine | KctlError]", deadline: float) -> Iterator[LogLine]:
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic())) if deadline else lines.get_nowait()
        except queue.Empty:
            return
        if isinstance(line, KctlError):
            raise line
        yield line


def _follow_pod(
    source: LogSource, tail: Tail, lines: "queue.Queue[LogLine | KctlError]", over: threading.Event
) -> None:
    """Stream, and stream again from the last line, until the run is over; then once more for what is left."""
    failures, pause = 0, _POLL_SECONDS
    while True:
        last_round, pause = over.is_set(), min(2 * pause, _IDLE_SECONDS)
        try:
            for line in tail.fresh(source.log_lines(tail.pod, not last_round, tail.since, tail.tail)):
                failures, pause = 0, _POLL_SECONDS
                lines.put(line)
        except NotFound:  # between two lives of the pod
            pass
        except Unreachable as error:
            failures += 1
            if failures > _RETRIES:
                lines.put(error)
                return
            over.wait(_RETRY_SECONDS)
            continue
        except KctlError as error:
            lines.put(error)
            return
        if last_round:
            return
        over.wait(pause)


def with_progress(backend: Backend, view: RunView, recent: int = RECENT) -> RunView:
    """`view` with attempt, step, loss and time left from its first pod's log, where it runs or never told."""
    if view.step is not None and view.phase.finished:
        return view
    for begin in (Begin(tail=recent), Begin(tail=10 * recent), Begin()):
        newest, attempt = None, view.attempt
        for pod in view.pods[:1]:
            if pod.phase == "Pending" and pod.life is None:
                continue
            with contextlib.suppress(NotFound, Refused):
                for line in read_all(backend, [pod.name], begin):
                    newest = parse_step_line(line.text) or newest
                    attempt = parse_attempt_line(line.text) or attempt
        view = replace(view, attempt=attempt)
        if newest is not None:
            return advanced(view, newest)
    return view


def advanced(view: RunView, step: Step) -> RunView:
    """`view` as that step line has it."""
    return replace(
        view,
        step=step.step,
        steps=step.steps,
        loss=step.loss,
        eta_s=step.eta_s,
        tokens_per_s=step.tokens_per_s,
        mem_gib=step.mem_gib,
    )
