"""Files of data that appear at once, complete or not at all, and never over another."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trainer.dataset.formats import Format
from trainer.errors import DataError


def write_rows(path: Path, data_format: Format, rows: Iterable[Any]) -> None:
    """The rows as JSONL, or as a JSON array with one row a line. DataError where there is a file, or cannot be."""
    array, empty = data_format == "chameleons", True
    with _appearing(path) as file:
        for row in rows:
            file.write((b"[\n" if empty else b",\n") if array else b"")
            file.write(_encoded(row) + (b"" if array else b"\n"))
            empty = False
        if array:
            file.write(b"[]\n" if empty else b"\n]\n")


def _encoded(row: Any) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair, in a field that nobody reads
        return json.dumps(row).encode()


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place when the block ends well, and goes away when it does not."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _show(beside, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}: name another place") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _show(beside: Path, path: Path) -> None:
    """DataError where something has come to `path` meanwhile."""
    try:
        os.link(beside, path)
    except OSError:
        if os.path.lexists(path):
            remedy = "move it away or name another place, and run this again"
            raise DataError(f"{path}: came meanwhile, and is kept; {remedy}") from None
        beside.rename(path)  # FAT, for one, has no links
