"""The formats by name: how a file of each is read row by row, and what a row of it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trainer.dataset.chameleons import parse_chameleons
from trainer.dataset.conversations import parse_messages, parse_prompt_completion
from trainer.dataset.items import Example, User
from trainer.dataset.json_array import json_rows
from trainer.dataset.source import Place, Refused, json_lines
from trainer.errors import DataError

Format = Literal["chameleons", "messages", "prompt_completion"]


class Entry(NamedTuple):
    """One row of a file: where it stands, what stands there, and what it means."""

    place: Place
    value: Any
    user: User
    examples: list[Example]


def parse(data_format: Format, place: Place, value: Any, refused: Refused | None = None) -> tuple[User, list[Example]]:
    """A row's user and items. DataError where it is not of the format; an item's own goes to `refused` if given."""
    if data_format == "chameleons":
        return parse_chameleons(place, value, refused)
    return (parse_messages if data_format == "messages" else parse_prompt_completion)(place, value)


def raw_rows(data_format: Format, path: Path, refused: Refused | None = None) -> Iterator[tuple[Place, Any]]:
    """Every row as JSON. DataError where the file is none; a bad line of JSONL goes to `refused` if given."""
    return json_rows(path) if data_format == "chameleons" else json_lines(path, refused)


def entries(data_format: Format, path: Path) -> Iterator[Entry]:
    """Every row of the file. DataError at the first that is wrong."""
    for place, value in raw_rows(data_format, path):
        yield Entry(place, value, *parse(data_format, place, value))


def format_of(path: Path) -> Format:
    """The format of a file by its beginning. DataError where it is none of the three."""
    try:
        with path.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if start.startswith(b"["):
        return "chameleons"
    if start.startswith(b"{"):
        for _, value in json_rows(path):
            found = _of_object(value)
            if found is not None:
                return found
            break
    raise DataError(f"{path}: neither chameleons, messages nor prompt_completion: name its --format to see why")


def _of_object(value: dict[str, Any]) -> Format | None:
    """By its keys: a file of format chameleons may be one object alone."""
    if "messages" in value:
        return "messages"
    if "prompt" in value or "completion" in value:
        return "prompt_completion"
    return "chameleons" if "task" in value or "user" in value else None
