"""A file cut into pieces of whole rows without decoding it, so that several processes can read it at once.

A newline is never inside a JSON string, and `{"key"` never inside one either: of an array, a piece ends before a row
that begins as the first one does. Whether a row, and not something inside one, began there shows when the piece is
decoded: if every piece is a list of whole values, all cuts were between rows.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FIRST_ROW = re.compile(rb'(?:\xef\xbb\xbf)?[ \t\n\r]*\[[ \t\n\r]*(\{[ \t\n\r]*"[^"\\]{1,200}")')
_SPACE = b" \t\n\r"
_LONGEST = 16
"""A piece may be so many times longer than asked for; beyond that rows do not begin alike."""
_NO_ROWS = b"?"
"""Can not be decoded."""


def blocks(path: Path, lines: bool, size: int) -> Iterator[bytes] | None:
    """Pieces of about `size` bytes of JSONL (`lines`) or of one JSON array; None where an array cannot be cut.

    OSError as reading has it.
    """
    if lines:
        return _line_blocks(path, size)
    with path.open("rb") as file:
        first = _FIRST_ROW.match(file.read(1 << 16))
    return None if first is None else _array_blocks(path, first.start(1), first.group(1), size)


def decoded(block: bytes, lines: bool) -> list[Any]:
    """The rows of a piece. ValueError or RecursionError where it is no list of whole ones."""
    if lines:
        return [json.loads(line.decode().removeprefix("\ufeff")) for line in block.split(b"\n") if line.strip()]
    rows: list[Any] = json.loads(f"[{block.decode()}]")
    return rows


def _line_blocks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block + file.readline()


def _array_blocks(path: Path, start: int, opener: bytes, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        waiting = b""
        while new := file.read(max(size, len(waiting))):
            waiting += new
            cut = waiting.rfind(opener, 1)
            if cut > 0:
                yield _without(waiting[:cut], b",")
                waiting = waiting[cut:]
            elif len(waiting) > _LONGEST * size:
                yield _NO_ROWS
                return
        yield _without(waiting, b"]")


def _without(piece: bytes, end: bytes) -> bytes:
    """The piece without the array's own character at its end; what cannot be decoded where that is not there."""
    rows = piece.rstrip(_SPACE)
    return rows[:-1] if rows.endswith(end) else _NO_ROWS
