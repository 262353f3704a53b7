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
        self._second, self._stamp = "", ""
        self._of_second = self._given[""]

    def reconnected(self) -> None:
        """A new connection starts: it repeats what was given out since `since`."""
        self._repeated = Counter(line for lines in self._given.values() for line in lines)

    @property
    def begun(self) -> bool:
        """True once a line was given out."""
        return bool(self._stamp)

    def take(self, line: str) -> tuple[str, str] | None:
        """(time, text) of a line as the server sends it; None where it was given out before."""
        match = _STAMPED.fullmatch(line)
        if match is None:
            # The server's own words, not the container's: they belong where they come.
            stamped = (self._stamp, line)
        else:
            self._stamp, second, zone, text = match.groups()
            stamped = (self._stamp, text)
            if second + zone != self._second:
                self._enter(second + zone)
        if self._before_the_first():
            return None
        if self._repeated and self._repeated[stamped] > 0:
            self._repeated[stamped] -= 1
            return None
        self._of_second.append(stamped)
        return stamped

    def _before_the_first(self) -> bool:
        if self.tail is None or not self._stamp:
            return False
        moment = nanoseconds(self._stamp)
        self._first = moment if self._first is None else self._first
        return moment < self._first

    def _enter(self, second: str) -> None:
        """A line of another second came: where it is the newest one, forget what lies too far back."""
        self._second, self._of_second = second, self._given.setdefault(second, [])
        moment = self._moments[second] = datetime.fromisoformat(second).astimezone(UTC)
        start = max(self._moments.values()) - timedelta(seconds=OVERLAP_SECONDS)
        if self._floor is None or start > self._floor:
            self.since = start.strftime("%Y-%m-%dT%H:%M:%SZ")
        for old in [name for name, at in self._moments.items() if at < start and at != moment]:
            del self._moments[old]
            self._given.pop(old, None)


def decoded_lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines of a byte stream that is cut anywhere; invalid UTF-8 becomes U+FFFD; a last line needs no newline."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        yield from lines
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest


def lines(api: Api, pod_path: str, follow: bool, given: Given) -> Iterator[tuple[str, str]]:
    """(RFC 3339 time, text) of every line that `given` wants; with follow until the container has ended.

    NotFound if there is no such pod at the start. A pod that has not started yet is waited for with follow only.
    """
    pod = pod_path.rpartition("/")[2]
    trouble = Trouble(GIVE_UP_SECONDS if follow else PATIENCE_SECONDS)
    state = _state(api.get(f"read the log of pod {pod}", pod_path))
    while state != "gone":
        if state == "waiting" and not follow:
            return
        try:
            if state != "waiting":
                for stamped in _one_connection(api, pod_path, follow and state == "running", given):
                    trouble.over()
                    yield stamped
            if state == "ended" or not follow:
                return
            # The server closed the log: the container may have ended, or only the connection.
            time.sleep(PAUSE_SECONDS)
            state = _state_now(api, pod_path)
        except (Unreachable, Refused) as error:
            if not follow and isinstance(error, Refused):
                raise  # a look at a log is not worth the wait that tells a right from a restart
            trouble.again(error)


def _one_connection(api: Api, pod_path: str, follow: bool, given: Given) -> Iterator[tuple[str, str]]:
    query = {"container": CONTAINER, "timestamps": "true", "follow": str(follow).lower()}
    if given.since is not None:
        query["sinceTime"] = given.since
    if given.tail is not None and not given.begun:
        query["tailLines"] = str(given.tail)
    given.reconnected()
    action = f"read the log of pod {pod_path.rpartition('/')[2]}"
    for line in decoded_lines(api.stream(action, f"{pod_path}/log", query, SILENCE_SECONDS)):
        stamped = given.take(line)
        if stamped is not None:
            yield stamped


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
