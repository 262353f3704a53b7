"""JSON lines, and the place of everything that is wrong in a file. Knows nothing of what a row means."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from trainer.errors import DataError


class Place(NamedTuple):
    """A row of a file. row and line count from 1, byte from 0; `inside` narrows it down, e.g. `item 2`."""

    path: Path
    row: int
    line: int
    byte: int
    inside: str = ""

    def fail(self, problem: str) -> NoReturn:
        """DataError with file, row, line and byte."""
        raise DataError(self.say(problem))

    def say(self, problem: str) -> str:
        where = f"row {self.row} (line {self.line}, byte {self.byte})"
        return f"{self.path}: {where}{', ' + self.inside if self.inside else ''}: {problem}"

    def at(self, inside: str) -> "Place":
        return Place(self.path, self.row, self.line, self.byte, inside)


Progress = Callable[[int], None]
"""Told how many bytes of a file are read."""
Refused = Callable[[DataError], None]
"""Told of what is wrong where reading goes on behind it."""


def json_lines(path: Path, refused: Refused | None = None) -> Iterator[tuple[Place, Any]]:
    """The JSON value of every line that is not blank. DataError with line and byte; to `refused` if that is given."""
    byte = row = 0
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, 1):
                if raw.strip():
                    row += 1
                    try:
                        value = _decode_line(path, raw, line, byte)
                    except DataError as error:
                        if refused is None:
                            raise
                        refused(error)
                    else:
                        yield Place(path, row, line, byte), value
                byte += len(raw)
    except OSError as error:
        raise DataError(unreadable(path, error)) from None
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


def unreadable(path: Path, error: OSError) -> str:
    """What a file that cannot be opened or read is said to be."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file: copy it to the data volume, or correct train.data.path"
    return f"{path}: cannot be read: {error.strerror}"


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
