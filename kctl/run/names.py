"""Names and tags of the runs that were seen last on each cluster, so that a shell can complete them without asking it.

A small file that the verbs refresh as they go; nothing else depends on it, and where it cannot be written nothing is
said. Imports nothing heavy: completion has 0.15 s.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|@[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
"""Of a run, or a tag as it is typed."""
_PLACE = re.compile(r"in namespace (\S+) of (?:context (.+)|this cluster)")
"""Backend.where of a cluster; what is on this machine lies in folders that can be listed."""
MOST_NAMES, MOST_PLACES = 1_000, 20


def cache_file() -> Path:
    """Where the names are: `names.json` in $KCTL_CACHE, by default ~/.cache/kctl."""
    named = os.environ.get("KCTL_CACHE")
    return (Path(named) if named else Path.home() / ".cache" / "kctl") / "names.json"


def read() -> dict[str, list[str]]:
    """Place -> names, oldest first, of the place that was refreshed last at the end; empty where there is no such
    file."""
    try:
        found = json.loads(cache_file().read_bytes())
    except (OSError, ValueError, RuntimeError, RecursionError):  # RuntimeError: nobody's home
        return {}
    if not isinstance(found, dict):
        return {}
    lists = {place: names for place, names in found.items() if _PLACE.fullmatch(place) and isinstance(names, list)}
    return {place: [one for one in names if is_name(one)] for place, names in lists.items()}


def is_name(one: object) -> bool:
    """Whether it is a run's name, or a tag as it is typed: a shell takes it as it is."""
    return isinstance(one, str) and _NAME.fullmatch(one) is not None


def remember(place: str, names: Sequence[str]) -> None:
    """These are all runs of that place now, oldest first."""
    if _PLACE.fullmatch(place):
        known = read()
        kept = list(names[-MOST_NAMES:])
        if list(known)[-1:] != [place] or known[place] != kept:
            known.pop(place, None)
            _write({**dict(list(known.items())[-(MOST_PLACES - 1) :]), place: kept})


def remember_one(place: str, name: str) -> None:
    """That run is there, whatever else is."""
    names = read().get(place, [])
    remember(place, names if name in names else [*names, name])


def forget(place: str, name: str) -> None:
    """That run is not there any more."""
    remember(place, [one for one in read().get(place, []) if one != name])


def _write(names: dict[str, list[str]]) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        path = cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=".names.", dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(names, file)
        Path(beside).replace(path)


def places() -> list[tuple[str, str]]:
    """(namespace, context) of each place, the one that was refreshed last first; the context is empty in a cluster."""
    found = [match for place in read() if (match := _PLACE.fullmatch(place))]
    return [(match[1], match[2] or "") for match in reversed(found)]


def on_clusters(namespace: str | None, context: str | None) -> list[str]:
    """Known runs there, newest first, of the place that was refreshed last first; None: of any."""
    found: dict[str, None] = {}
    for place, names in reversed(read().items()):
        match = _PLACE.fullmatch(place)
        if match and namespace in (None, match[1]) and context in (None, match[2]):
            found.update(dict.fromkeys(reversed(names)))
    return list(found)
