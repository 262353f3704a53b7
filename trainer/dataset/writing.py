"""Files of data that appear by rename, complete or not at all."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trainer.dataset.formats import Format
from trainer.errors import DataError


def write_rows(path: Path, data_format: Format, rows: Iterable[Any]) -> None:
    """The rows as JSONL, or as a JSON array with one row a line. DataError where `path` cannot be written."""
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
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}: name another place") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
