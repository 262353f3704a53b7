"""JSON files, row by row, and the place of everything that is wrong in them. Knows nothing of what a row means."""

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from trainer.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Place:
    """A row of a file. row and line count from 1, byte from 0; `inside` narrows it down, e.g. `item 2`."""

    path: Path
    row: int
    line: int
    byte: int
    inside: str = ""

    def fail(self, problem: str) -> NoReturn:
        """DataError with file, row, line and byte."""
        where = f"row {self.row} (line {self.line}, byte {self.byte})"
        raise DataError(f"{self.path}: {where}{', ' + self.inside if self.inside else ''}: {problem}")

    def at(self, inside: str) -> "Place":
        return Place(self.path, self.row, self.line, self.byte, inside)


def json_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """The elements of one JSON array, or the one object that the file is. DataError with line and byte."""
    text = _read_text(path)
    start = _skip(text, 1 if text.startswith("\ufeff") else 0)
    if start == len(text):
        raise DataError(f"{path}: the file is empty: expected a JSON array of rows")
    if text[start] not in "[{":
        found = "a number" if text[start] in "-0123456789" else f"{text[start : start + 12]!r}"
        raise DataError(f"{path}: line 1: expected a JSON array of rows, got {found}")
    rows = _Rows(path, text)
    if text[start] == "{":
        place, value, end = rows.decode(start)
        yield place, value
    else:
        end = yield from rows.elements(start + 1)
    end = _skip(text, end)
    if end != len(text):
        rows.fail(end, "text after the end of the JSON value")


def json_lines(path: Path) -> Iterator[tuple[Place, Any]]:
    """The JSON value of every line that is not blank. DataError with line and byte."""
    byte = row = 0
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, 1):
                if raw.strip():
                    row += 1
                    yield Place(path, row, line, byte), _decode_line(path, raw, line, byte)
                byte += len(raw)
    except OSError as error:
        raise DataError(_unreadable(path, error)) from None
    if row == 0:
        raise DataError(f"{path}: the file is empty: expected one JSON object a line")


def _decode_line(path: Path, raw: bytes, line: int, byte: int) -> Any:
    try:
        text = raw.decode().removeprefix("\ufeff")
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: line {line}, byte {byte + error.start}: not valid UTF-8") from None
    except json.JSONDecodeError as error:
        at = byte + len(text[: error.pos].encode())
        raise DataError(f"{path}: line {line}, byte {at}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{path}: line {line}, byte {byte}: nested too deep") from None
    except ValueError as error:
        raise DataError(f"{path}: line {line}, byte {byte}: {error}") from None


class _Rows:
    """Decodes one text piece by piece; keeps count of lines and bytes as it goes."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self._decoder = json.JSONDecoder()
        self._ascii = text.isascii()
        self._row = self._at = self._byte = 0
        self._line = 1

    def elements(self, start: int) -> Generator[tuple[Place, Any], None, int]:
        """Every (place, value) of the array whose first element may begin at `start`; returns where it ends."""
        text = self.text
        at = _skip(text, start)
        if text[at : at + 1] == "]":
            return at + 1
        while True:
            place, value, at = self.decode(at)
            yield place, value
            at = _skip(text, at)
            following = text[at : at + 1]
            if following == "]":
                return at + 1
            if following != ",":
                self.fail(at, "expected ',' or ']' after the row" if following else "the file ends inside the array")
            at = _skip(text, at + 1)

    def decode(self, at: int) -> tuple[Place, Any, int]:
        """The row at `at`, its place and where it ends."""
        self._row += 1
        self._move(at)
        place = Place(self.path, self._row, self._line, self._byte)
        try:
            value, end = self._decoder.raw_decode(self.text, at)
        except json.JSONDecodeError as error:
            ended = error.pos >= len(self.text.rstrip()) or error.msg.startswith("Unterminated string")
            self.fail(error.pos, "the file ends inside this row" if ended else f"not valid JSON: {error.msg}")
        except RecursionError:
            place.fail("nested too deep")
        except ValueError as error:
            place.fail(str(error))
        return place, value, end

    def fail(self, at: int, problem: str) -> NoReturn:
        self._move(at)
        Place(self.path, max(self._row, 1), self._line, self._byte).fail(problem)

    def _move(self, at: int) -> None:
        self._line += self.text.count("\n", self._at, at)
        self._byte += at - self._at if self._ascii else len(self.text[self._at : at].encode())
        self._at = at


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(_unreadable(path, error)) from None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}, byte {error.start}: not valid UTF-8") from None


def _unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file: copy it to the data volume, or correct train.data.path"
    return f"{path}: cannot be read: {error.strerror}"


def _skip(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


# Fields of a row: an absent or null section is empty, anything of another type is an error.


def as_object(place: Place, value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        place.fail(f"{name} must be an object, got {kind(value)}")
    return value


def as_list(place: Place, value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        place.fail(f"{name} must be a list, got {kind(value)}")
    return value


def as_text(place: Place, value: Any, name: str) -> str:
    """A string that can be encoded; null is an error, since it hides a hole in the data."""
    if not isinstance(value, str):
        place.fail(f"{name} must be a string, got {kind(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            place.fail(f"{name} holds half a surrogate pair (a broken \\ud8.. escape)")
    return value


def kind(value: Any) -> str:
    """The JSON type in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
