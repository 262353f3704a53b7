"""Reading the local pods' logs while they are written. A line counts once its end is there."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

from kctl.backends.local.store import LocalRun, read_json
from kctl.backends.run_view import pod_view
from kctl.backends.times import nanoseconds
from kctl.errors import NotFound
from kctl.manifest import Manifest

_TURN = 0.1


def lines(
    run: LocalRun,
    pod: str,
    follow: bool,
    begin: tuple[str | None, int | None],
    list_pods: Callable[[str], list[Manifest]],
) -> Iterator[tuple[str, str]]:
    """(time, text) of every line of every life of `pod`; `begin`: since and tail of Backend.log_lines."""
    since, tail = begin
    stream = _since(run, pod, follow, since, list_pods)
    if tail is None:
        return stream
    there = sum(1 for _ in _since(run, pod, False, since, list_pods))
    return itertools.islice(stream, max(0, there - tail), None)


def _since(
    run: LocalRun, pod: str, follow: bool, since: str | None, list_pods: Callable[[str], list[Manifest]]
) -> Iterator[tuple[str, str]]:
    if not run.pod(pod).exists():
        raise NotFound(f"no pod {pod} locally; see kctl list --local")
    start = nanoseconds(since) if since else 0
    uid, life = _uid(run), 1
    while True:
        if run.log(pod, life).exists():
            with run.log(pod, life).open("rb") as file:
                _skip(file, start)
                yield from _one_life(file, start, partial(_done, run, pod, life, uid, follow, list_pods))
        if run.log(pod, life + 1).exists() and _uid(run) == uid:
            life += 1
        elif not follow or _done(run, pod, life, uid, follow, list_pods):
            return
        else:
            time.sleep(_TURN)


def _uid(run: LocalRun) -> str:
    job = read_json(run.job)
    return str(job["metadata"]["uid"]) if job else ""


def _done(
    run: LocalRun, pod: str, life: int, uid: str, follow: bool, list_pods: Callable[[str], list[Manifest]]
) -> bool:
    """True where nothing is added to this life's log any more, or where nobody wants to wait for it."""
    if not follow or run.log(pod, life + 1).exists() or _uid(run) != uid:
        return True
    view = next((pod_view(one) for one in list_pods(run.name) if one["metadata"]["name"] == pod), None)
    return view is None or (not view.active and (view.life or 1) <= life)


def _skip(file: BinaryIO, start: int) -> None:
    """Move near the first line of time `start`, by halving: times in a log never fall."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > 1 << 18:
        file.seek((low + high) // 2)
        file.readline()
        position = file.tell()
        stamp = file.readline().partition(b" ")[0].decode()
        if position >= high or nanoseconds(stamp) >= start:
            high = (low + high) // 2
        else:
            low = position
    file.seek(low)


def _one_life(file: BinaryIO, start: int, done: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    last_look = False
    while True:
        position = file.tell()
        line = file.readline()
        if line.endswith(b"\n"):
            stamp, _, text = line[:-1].decode(errors="replace").partition(" ")
            if nanoseconds(stamp) >= start:
                yield stamp, text
            continue
        file.seek(position)
        if last_look:
            return
        last_look = done()
        if not last_look:
            time.sleep(_TURN)
