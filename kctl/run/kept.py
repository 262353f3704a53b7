"""The logs that the trainer keeps on the runs volume: of pods that are gone, of earlier attempts, and the beginning of
a log that its kubelet has rotated away. A kubelet gives out the newest file of a container's log alone, 10 MiB of it.
"""

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice

from kctl import console
from kctl.backends.protocol import Backend, RunFiles
from kctl.backends.run_view import pod_view
from kctl.backends.times import nanoseconds
from kctl.errors import Damaged, KctlError

LATE_SECONDS = 10.0
"""The launcher speaks as soon as it runs: a log whose first line is younger than its container by more than this has
lost its beginning. No kubelet rotates sooner."""
HEAD = 1_000
"""Lines of the kubelet's log by which their place on the volume is found."""
LINE_LIMIT = 4 << 20
"""Bytes: what has no end of a line for longer was not written by a run, and is not held."""

_LOG = re.compile(r"attempt-(\d+)-node-(\d+)\.log")
"""RunFolder.log"""

Stamped = tuple[str, str]
"""(RFC 3339 time, text); lines of the volume have no time."""


def kept_logs(files: RunFiles) -> dict[str, tuple[int, int]]:
    """(attempt, node) of each log on the volume, by its name, in that order."""
    found = {name: match for name in files.names("logs") if (match := _LOG.fullmatch(name))}
    logs = {name: (int(match[1]), int(match[2])) for name, match in found.items()}
    return dict(sorted(logs.items(), key=lambda item: item[1]))


def kept_lines(files: RunFiles, name: str) -> Iterator[str]:
    """The lines of one of them, without newlines."""
    return lines_of(files, f"logs/{name}")


def lines_of(files: RunFiles, path: str) -> Iterator[str]:
    """The lines of a file of the run, without newlines. Damaged at one that does not end within LINE_LIMIT."""
    rest = b""
    for chunk in files.read(path):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
        if len(rest) > LINE_LIMIT:
            raise Damaged(
                f"{path}: a line of more than {LINE_LIMIT >> 20} MiB: not written by a run; look at it on the volume"
            )
    if rest:
        yield rest.decode(errors="replace")


class WholeLogs:
    """A run's logs as `Backend.log_lines` gives them, with what is on the volume alone where a whole log is wanted."""

    def __init__(self, backend: Backend, run: str) -> None:
        self._backend, self._run = backend, run

    def log_lines(self, pod: str, follow: bool, since: str | None, tail: int | None = None) -> Iterator[Stamped]:
        """(RFC 3339 time, text); the time is empty for lines that come from the volume."""
        if since is not None or tail is not None:
            yield from self._backend.log_lines(pod, follow, since, tail)
            return
        while True:
            lines = self._backend.log_lines(pod, follow, None)
            first = next(lines, None)
            node = self._node_that_lost_lines(pod, first)
            if node is None:
                break
            head = list(islice(self._backend.log_lines(pod, False, None), HEAD))
            if head[:1] == ([] if first is None else [first]):  # else it was rotated again just now
                yield from self._before(pod, node, [text for _, text in head])
                break
        if first is not None:
            yield first
            yield from lines

    def _node_that_lost_lines(self, pod: str, first: Stamped | None) -> int | None:
        """The pod's node where its log does not begin with its container's first line."""
        for view in map(pod_view, self._backend.list_pods(self._run)):
            if view.name != pod or not view.started:
                continue
            began = started = nanoseconds(view.started)
            if first is not None and first[0]:
                began = nanoseconds(first[0])
            elif first is None and view.phase == "Running":  # rotated just now, or so young that it said nothing yet
                began = int(self._backend.now().timestamp() * 1e9)
            if began - started > LATE_SECONDS * 1e9:
                return view.index
        return None

    def _before(self, pod: str, node: int, head: list[str]) -> Iterator[Stamped]:
        """The lines of the node's newest attempt up to `head`; where they cannot be read, why, and no lines."""
        told = False
        try:
            with self._backend.files(self._run) as files:
                names = [name for name, (_, of_node) in kept_logs(files).items() if of_node == node]
                for text in up_to(kept_lines(files, names[-1]), head) if names else ():
                    if not told:
                        console.say(
                            f"the kubelet of {pod} has only the end of its log; the beginning is from the runs volume"
                        )
                        told = True
                    yield "", text
        except KctlError as error:
            console.say(f"the log of {pod} begins late: its kubelet has rotated it, and the runs volume: {error}")


def up_to(lines: Iterator[str], head: list[str]) -> Iterator[str]:
    """`lines` before the last place where `head` stands in them, or where it begins at their end; else all of them."""
    held, found = deque[str](), False
    for line in lines:
        held.append(line)
        if len(held) >= len(head) and _ends_with(held, head):
            found = True
            while len(held) > len(head):
                yield held.popleft()
        elif not found and len(held) >= len(head):
            yield held.popleft()
    if not found:
        come = next((count for count in range(len(head) - 1, 0, -1) if _ends_with(held, head[:count])), 0)
        yield from islice(held, len(held) - come)


def _ends_with(held: deque[str], head: list[str]) -> bool:
    pairs = zip(reversed(held), reversed(head), strict=False)  # from the end: the last lines differ nearly always
    return len(held) >= len(head) and all(one == other for one, other in pairs)
