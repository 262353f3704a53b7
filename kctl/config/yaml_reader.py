"""YAML as people mean it: one document of maps, lists and scalars, without the traps of YAML 1.1.

Duplicate keys, tags, merge keys and several documents are refused; `1e-4` is a number; on, off, yes, no, dates,
`1:30`, `010`, `.inf` are strings; keys are always text; size, depth and what aliases expand to are bounded. Every
problem is a UsageError with file, line and column.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from kctl.errors import NotFound, UsageError

MAX_BYTES = 1_048_576
"""A config is a page of text; Kubernetes keeps no object above 1 MiB either."""
MAX_DEPTH = 40
MAX_NODES = 20_000
"""Scalars, lists and maps after aliases are expanded: bounds the `billion laughs`."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read_yaml(path: Path) -> Any:
    """The file's one document as plain Python values. NotFound if there is no file, UsageError for all else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file; kctl looks for a path or the name of a config") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path}: cannot be read: {reason}") from None
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes | str, where: str) -> Any:
    """`data` (UTF-8) as plain Python values; `where` opens every message."""
    if len(data) > MAX_BYTES:
        raise UsageError(f"{where}: larger than {MAX_BYTES} bytes: no config")
    import yaml

    text = _decoded(data, where)
    try:
        return _Builder(yaml.parse(text, Loader=yaml.CSafeLoader), where).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise UsageError(f"{where}:{place}: {error.problem or error.context or 'no YAML'}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{where}: no YAML: {str(error).splitlines()[0]}") from None


def _decoded(data: bytes | str, where: str) -> str:
    try:
        text = data.encode().decode() if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1 if isinstance(data, bytes) else 1
        raise UsageError(f"{where}:{line}: not UTF-8 at byte {error.start}: save the file as UTF-8") from None
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: not Unicode at character {error.start}") from None
    odd = re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]", text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise UsageError(f"{where}:{line}: control character {odd[0]!r}: remove it")
    return text


class _Builder:
    """Values from libyaml's events: the one place where a limit can be kept before anything is built."""

    def __init__(self, events: Iterator[Any], where: str) -> None:
        self.events, self.where = events, where
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.nodes = 0

    def document(self) -> Any:
        from yaml import events

        next(self.events)
        first = next(self.events)
        if isinstance(first, events.StreamEndEvent):
            return None
        value = self.node(next(self.events), 0)
        next(self.events)
        after = next(self.events)
        if not isinstance(after, events.StreamEndEvent):
            self.refuse(after, "a second document: write one run a file")
        return value

    def node(self, event: Any, depth: int) -> Any:
        from yaml import events

        self.count(event, 1)
        if depth > MAX_DEPTH:
            self.refuse(event, f"nested deeper than {MAX_DEPTH}")
        if isinstance(event, events.AliasEvent):
            return self.alias(event, depth)
        before = self.nodes
        if event.tag is not None:
            self.refuse(event, f"tag {event.tag!r}: tags are not supported, remove it")
        if isinstance(event, events.ScalarEvent):
            value = _scalar(event.value) if event.implicit[0] else event.value
        elif isinstance(event, events.SequenceStartEvent):
            value = self.sequence(depth)
        else:
            value = self.mapping(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.nodes - before + 1)
        return value

    def alias(self, event: Any, depth: int) -> Any:
        if event.anchor not in self.anchors:
            self.refuse(event, f"alias *{event.anchor} has no anchor before it")
        value, size = self.anchors[event.anchor]
        self.count(event, size)
        if depth + _height(value) > MAX_DEPTH:
            self.refuse(event, f"nested deeper than {MAX_DEPTH} once aliases are expanded")
        return value

    def sequence(self, depth: int) -> list[Any]:
        from yaml import events

        found = []
        while not isinstance(event := next(self.events), events.SequenceEndEvent):
            found.append(self.node(event, depth + 1))
        return found

    def mapping(self, depth: int) -> dict[str, Any]:
        from yaml import events

        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), events.MappingEndEvent):
            if not isinstance(event, events.ScalarEvent) or event.tag is not None:
                self.refuse(event, "a key must be plain text")
            key: str = event.value
            if key == "<<":
                self.refuse(event, "merge keys (<<) are not supported: use extends: NAME")
            if key in found:
                self.refuse(event, f"duplicate key {key!r}: it stands in this map before")
            if event.anchor is not None:
                self.anchors[event.anchor] = (key, 1)
            found[key] = self.node(next(self.events), depth + 1)
        return found

    def count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self.refuse(event, f"more than {MAX_NODES} values once aliases are expanded")

    def refuse(self, event: Any, problem: str) -> NoReturn:
        mark = event.start_mark
        raise UsageError(f"{self.where}:{mark.line + 1}:{mark.column + 1}: {problem}")


def _height(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_height, inner), default=-1)


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= 300:  # beyond the digits of any float: leave it text, and let the schema refuse it
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    return text
