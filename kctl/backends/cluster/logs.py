"""A container's log as (time, text) lines, each once, however often the connection is cut.

The server filters by whole seconds only, so a new connection repeats what came in the last of them. What was given
remembers which lines went out since then and skips as many of each.
"""

import codecs
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from kctl.backends.cluster.api import Api
from kctl.backends.times import nanoseconds
from kctl.backends.trouble import GIVE_UP_SECONDS, PATIENCE_SECONDS, Trouble
from kctl.errors import NotFound, Refused, Unreachable
from kctl.manifest import Manifest
from trainer.schema.contract import CONTAINER

SILENCE_SECONDS = 300.0
"""A follow without a line for this long is opened again; nothing is lost by it."""
OVERLAP_SECONDS = 2
"""A reconnect asks again for this much: stdout and stderr are stamped by two writers, not in order."""
PAUSE_SECONDS = 0.5
"""Between looks at a container that has not started or whose log was closed."""
GONE = ("unable to retrieve container logs for ", "rpc error: code = NotFound ", "failed to try resolving symlinks in ")
"""What a kubelet says, as if the container had, where it has removed the container meanwhile, e.g. of an evicted pod.
The words are its own, its runtime's and its file system's; unlike the container's they have no time."""

_STAMPED = re.compile(r"((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)) ?(.*)", re.DOTALL)


class Given:
    """What has been given out of one log: by second, the lines of the newest second and shortly before it."""

    def __init__(self, since: str | None, tail: int | None = None) -> None:
        self.since = since
        """RFC 3339; what the next connection asks for."""
        self.tail = tail
        """How many lines the first connection asks for; None: all."""
        self._first: int | None = None
        """Time of the first line where only the last lines were asked for: a new connection sends earlier ones too."""
        self._floor = None if since is None else datetime.fromisoformat(since).astimezone(UTC)
        self._given: dict[str, list[tuple[str, str]]] = {"": []}
        self._moments: dict[str, datetime] = {}
        self._repeated: Counter[tuple[str, str]] = Counter()
        self._second, self._begins, self._stamp = "", "", ""
        self._of_second = self._given[""]

    def reconnected(self) -> None:
        """A new connection starts: it repeats what was given out since `since`."""
        self._repeated = Counter(line for lines in self._given.values() for line in lines)

    @property
    def begun(self) -> bool:
        """True once a line was given out."""
        return bool(self._stamp)

    def take(self, lines: list[str]) -> list[tuple[str, str]]:
        """(time, text) of the lines that the server sends next, without those given out before."""
        taken = []
        for line in lines:
            stamp, _, text = line.partition(" ")
            # Nearly every line is of the second of the one before it: for these a look at the stamp is enough.
            if stamp[:20] == self._begins and stamp[-1:] == "Z" and stamp[20:-1].isdecimal():
                self._stamp = stamp
            elif line.startswith(GONE):
                continue
            else:
                text = self._parsed(line)
            stamped = (self._stamp, text)
            if not self._was_given(stamped):
                self._of_second.append(stamped)
                taken.append(stamped)
        return taken

    def _parsed(self, line: str) -> str:
        """The text of any line; its time, where it has one, is the newest from now on."""
        match = _STAMPED.fullmatch(line)
        if match is None:
            return line  # the server's own words, not the container's: they belong where they come
        self._stamp, second, zone, text = match.groups()
        if second + zone != self._second:
            self._enter(second + zone)
        return text

    def _was_given(self, stamped: tuple[str, str]) -> bool:
        if self.tail is not None and self._stamp:
            moment = nanoseconds(self._stamp)
            self._first = moment if self._first is None else self._first
            if moment < self._first:
                return True
        if self._repeated and self._repeated[stamped] > 0:
            self._repeated[stamped] -= 1
            return True
        return False

    def _enter(self, second: str) -> None:
        """A line of another second came: where it is the newest one, forget what lies too far back."""
        self._second, self._of_second = second, self._given.setdefault(second, [])
        self._begins = second[:-1] + "." if second.endswith("Z") else ""
        moment = self._moments[second] = datetime.fromisoformat(second).astimezone(UTC)
        start = max(self._moments.values()) - timedelta(seconds=OVERLAP_SECONDS)
        if self._floor is None or start > self._floor:
            self.since = start.strftime("%Y-%m-%dT%H:%M:%SZ")
        for old in [name for name, at in self._moments.items() if at < start and at != moment]:
            del self._moments[old]
            self._given.pop(old, None)


def decoded_lines(chunks: Iterator[bytes]) -> Iterator[list[str]]:
    """Lines of a byte stream that is cut anywhere, as they come; invalid UTF-8 becomes U+FFFD; a last line needs no
    newline.
    """
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        yield lines
    rest += decoder.decode(b"", final=True)
    if rest:
        yield [rest]


def lines(api: Api, pod_path: str, follow: bool, given: Given) -> Iterator[tuple[str, str]]:
    """(RFC 3339 time, text) of every line that `given` wants; with follow until the container has ended.

    NotFound if there is no such pod at the start. A pod that has not started yet is waited for with follow only.
    """
    pod = pod_path.rpartition("/")[2]
    trouble = Trouble(GIVE_UP_SECONDS if follow else PATIENCE_SECONDS)
    # Whoever wants the last lines asks for them at once: of a hundred pods that is half of all requests.
    first = follow or given.tail is None
    state = _state(api.get(f"read the log of pod {pod}", pod_path)) if first else "running"
    while state != "gone":
        try:
            if state != "waiting":
                for taken in _one_connection(api, pod_path, follow and state == "running", given):
                    trouble.over()
                    yield from taken
            if state == "ended" or not follow:
                return
            # The server closed the log: the container may have ended, or only the connection.
            time.sleep(PAUSE_SECONDS)
            state = _state_now(api, pod_path)
        except (Unreachable, Refused) as error:
            if not follow and isinstance(error, Refused):
                if _waits(api, pod_path):
                    return
                raise  # a look at a log is not worth the wait that tells a right from a restart
            trouble.again(error)


def _one_connection(api: Api, pod_path: str, follow: bool, given: Given) -> Iterator[list[tuple[str, str]]]:
    query = {"container": CONTAINER, "timestamps": "true", "follow": str(follow).lower()}
    if given.since is not None:
        query["sinceTime"] = given.since
    if given.tail is not None and not given.begun:
        query["tailLines"] = str(given.tail)
    given.reconnected()
    action = f"read the log of pod {pod_path.rpartition('/')[2]}"
    for block in decoded_lines(api.stream(action, f"{pod_path}/log", query, SILENCE_SECONDS)):
        taken = given.take(block)
        if taken:
            yield taken


def _waits(api: Api, pod_path: str) -> bool:
    """Whether the container has not started, where one may look at its pod."""
    try:
        return _state_now(api, pod_path) == "waiting"
    except Refused:
        return False


def _state_now(api: Api, pod_path: str) -> str:
    try:
        return _state(api.get(f"read the state of pod {pod_path.rpartition('/')[2]}", pod_path))
    except NotFound:
        return "gone"


def _state(pod: Manifest) -> str:
    """waiting, running or ended: whether the container has a log yet, and whether it is complete."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or []:
        if container.get("name") == CONTAINER:
            state = container.get("state") or {}
            return "running" if "running" in state else "ended" if "terminated" in state else "waiting"
    return "ended" if status.get("phase") in ("Succeeded", "Failed") else "waiting"
