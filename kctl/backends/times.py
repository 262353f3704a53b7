"""Times as Kubernetes and its log files write them: RFC 3339, UTC."""

import functools
import re
import time
from datetime import UTC, datetime

RFC_3339 = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*(Z|[+-]\d\d:\d\d)$")


@functools.lru_cache(maxsize=256)  # lines that were written together carry one time
def nanoseconds(text: str) -> int:
    """An RFC 3339 time as nanoseconds since 1970; ValueError for anything else."""
    match = RFC_3339.match(text)
    if match is None:
        raise ValueError(f"no RFC 3339 time: {text[:60]!r}")
    whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    since_1970 = whole - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_1970.days * 86400 + since_1970.seconds) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))


def sortable(text: str) -> str:
    """An RFC 3339 time so written that later times are greater texts; nearly all log lines have it so already."""
    if text.endswith("Z") and text[19:20] == ".":
        return text if len(text) == 30 else text[:-1].ljust(29, "0")[:29] + "Z"
    return log_time(nanoseconds(text))


def timestamp() -> str:
    """Now, as Kubernetes writes times: whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def log_time(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as the kubelet stamps a log line: nine digits."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"
