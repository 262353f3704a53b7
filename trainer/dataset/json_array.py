"""The elements of a JSON array one after the other, in the memory of the largest of them: a file may be of any size."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from trainer.dataset.source import Place, unreadable
from trainer.errors import DataError
from trainer.schema.redaction import redacted

_SPACE = re.compile(r"[ \t\n\r]*")
_BLOCK = 1 << 20
_LONGEST_WORD = 16
"""What is so close to the end of what was read may be a word cut in two ("-Infinity", an escape, 1.5e-10)."""


def json_rows(path: Path, block: int = _BLOCK) -> Iterator[tuple[Place, Any]]:
    """The elements of one JSON array, or the one object that the file is. DataError with line and byte.

    block: bytes that are read at once, at least.
    """
    try:
        with path.open("rb") as file:
            yield from _elements(_Text(path, file, block))
    except OSError as error:
        raise DataError(unreadable(path, error)) from None


def _elements(text: "_Text") -> Iterator[tuple[Place, Any]]:
    first = text.following()
    if not first:
        raise DataError(f"{text.path}: the file is empty: expected a JSON array of rows")
    if first not in "[{":
        found = "a number" if first in "-0123456789" else f"{text.glimpse()!r}"
        raise DataError(f"{text.path}: line 1: expected a JSON array of rows, got {found}")
    if first == "{":
        yield text.value()
    else:
        text.skip()
        more = text.following() != "]"
        while more:
            yield text.value()
            following = text.following()
            if following not in ("]", ","):
                text.fail("expected ',' or ']' after the row" if following else "the file ends inside the array")
            more = following == ","
            if more:
                text.skip()
                text.following()
        text.skip()
    if text.following():
        text.fail("text after the end of the JSON value")


class _Text:
    """A file decoded block by block. Stands at one character of it, and knows that one's line and byte."""

    def __init__(self, path: Path, file: BinaryIO, block: int) -> None:
        self.path, self._file, self._block = path, file, block
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._read = self._lines_read = 0
        self._text, self._at, self._ended = "", 0, False
        self._row, self._line, self._byte = 0, 1, 0
        self._decoder = json.JSONDecoder()
        if self.following() == "\ufeff":
            self.skip()

    def following(self) -> str:
        """Go to the next character that is no space, and return it; "" at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._move(found.end() if found else self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def skip(self) -> None:
        """Go on by one character."""
        self._move(self._at + 1)

    def glimpse(self) -> str:
        """The first words; cut after what may be a credential is taken out, or half of one would be left."""
        return redacted(self._text[self._at : self._at + 400])[:12]

    def value(self) -> tuple[Place, Any]:
        """The JSON value that begins here, and its place; go to its end."""
        self._row += 1
        place = Place(self.path, self._row, self._line, self._byte)
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string")
                if self._ended or not (cut or error.pos >= len(self._text) - _LONGEST_WORD):
                    ended = self._ended and (cut or error.pos >= len(self._text.rstrip()))
                    self._move(error.pos)
                    self.fail("the file ends inside this row" if ended else f"not valid JSON: {error.msg}")
            except RecursionError:
                place.fail("nested too deep")
            except ValueError as error:
                place.fail(str(error))
            else:
                closed = isinstance(value, dict | list | str)  # a number could go on
                if closed or self._ended or end < len(self._text) - _LONGEST_WORD:
                    self._move(end)
                    return place, value
            self._more()

    def fail(self, problem: str) -> NoReturn:
        Place(self.path, max(self._row, 1), self._line, self._byte).fail(problem)

    def _move(self, at: int) -> None:
        self._line += self._text.count("\n", self._at, at)
        ascii_only = self._text.isascii()
        self._byte += at - self._at if ascii_only else len(self._text[self._at : at].encode())
        self._at = at

    def _more(self) -> None:
        """Read on: as much as is waiting already, so that a row of any size is decoded a few times only."""
        waiting = self._text[self._at :]
        raw = self._file.read(max(self._block, len(waiting)))
        pending = len(self._utf8.getstate()[0])
        try:
            new = self._utf8.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line = self._lines_read + error.object[: error.start].count(b"\n") + 1
            byte = self._read - pending + error.start
            raise DataError(f"{self.path}: line {line}, byte {byte}: not valid UTF-8") from None
        self._read += len(raw)
        self._lines_read += raw.count(b"\n")
        self._text, self._at, self._ended = waiting + new, 0, not raw
