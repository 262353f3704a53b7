"""Watching objects so that nothing ends the watch but time: not the server closing it, its restart, nor a gap (410).

One watch is finite and lives in events(); the loop around it lists again, reconnects and backs off.
"""

import json
import math
import time
from collections.abc import Iterator

from kctl.backends.cluster.api import Api
from kctl.backends.cluster.errors import Gone
from kctl.backends.trouble import Trouble
from kctl.errors import Refused, Unreachable
from kctl.manifest import Manifest

SILENCE_SECONDS = 90.0
"""A watch without a word for this long is cut: the server sends a bookmark about every minute."""


def snapshots(api: Api, action: str, path: str, query: dict[str, str], timeout: float) -> Iterator[list[Manifest]]:
    """All matching objects now, and again after every change, for `timeout` seconds.

    The first list raises its error at once; later ones are retried. Still unreachable at the end: Unreachable.
    """
    deadline = time.monotonic() + timeout
    listed = api.get(action, path, query)
    trouble = Trouble(math.inf, deadline)
    while True:
        version = str(listed.get("metadata", {}).get("resourceVersion", ""))
        objects = {str(item["metadata"]["uid"]): item for item in listed.get("items", [])}
        yield list(objects.values())
        try:
            while time.monotonic() < deadline:
                try:
                    for event in events(api, action, path, {**query, "resourceVersion": version}, deadline):
                        trouble.over()
                        item = event["object"]
                        version = str(item["metadata"]["resourceVersion"])
                        if _apply(event["type"], item, objects):
                            yield list(objects.values())
                    trouble.over()
                except Gone:
                    raise
                except (Unreachable, Refused) as error:
                    trouble.again(error)
            return
        except Gone:
            time.sleep(0.1)
            listed = _listed_again(api, action, path, query, trouble)


def _apply(kind: str, item: Manifest, objects: dict[str, Manifest]) -> bool:
    """Take an event over into `objects`; False where it is only a bookmark."""
    uid = str(item["metadata"].get("uid", ""))
    if kind in ("ADDED", "MODIFIED"):
        objects[uid] = item
    elif kind == "DELETED":
        objects.pop(uid, None)
    return kind in ("ADDED", "MODIFIED", "DELETED")


def _listed_again(api: Api, action: str, path: str, query: dict[str, str], trouble: Trouble) -> Manifest:
    while True:
        try:
            return api.get(action, path, query)
        except (Unreachable, Refused) as error:
            trouble.again(error)


def events(api: Api, action: str, path: str, query: dict[str, str], deadline: float) -> Iterator[Manifest]:
    """The events of one connection. Gone where its history is lost; Unreachable when it is cut."""
    left = max(1.0, deadline - time.monotonic())
    asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(int(min(left, 300)) or 1)}
    rest = b""
    for chunk in api.stream(action, path, asked, min(left + 1.0, SILENCE_SECONDS)):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = _event(line, action)
            if event is not None:
                yield event


def _event(line: bytes, action: str) -> Manifest | None:
    if not line.strip():
        return None
    try:
        event = json.loads(line)
        kind, item = str(event["type"]), event["object"]
        if kind != "ERROR" and isinstance(item["metadata"]["resourceVersion"], str):
            return {"type": kind, "object": item}
        code = int(item.get("code", 0))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unreachable(f"cannot {action}: the watch sent something else than events; run it again") from None
    # 410 Gone and any other error event end this history; a new list starts the next.
    raise Gone(f"cannot {action}: the watch ended with {code}; run it again")
