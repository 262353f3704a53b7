"""Everything that is wrong in a file, not the first thing alone."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset.formats import Format, parse, raw_rows
from trainer.dataset.items import BROKEN
from trainer.dataset.source import Progress
from trainer.dataset.subset import Counts
from trainer.errors import DataError


@dataclass(frozen=True)
class Finding:
    """text: file, row, line, byte, item and what is wrong. ends_run: a run would end with code 3, where it otherwise
    leaves the item out."""

    text: str
    ends_run: bool


def findings(path: Path, data_format: Format, counts: Counts, progress: Progress) -> Iterator[Finding]:
    """In file order, one of a line that is no JSON, of a row that is not of the format, of an item. An array that is no
    JSON is read up to there. `counts` gets what could be read."""
    errors: deque[str] = deque()
    broken = False

    def refused(error: DataError) -> None:
        errors.append(str(error))

    try:
        for place, value in raw_rows(data_format, path, refused):
            progress(place.byte)
            try:
                user, examples = parse(data_format, place, value, refused)
            except DataError as error:
                refused(error)
                examples = []
            while errors:
                broken = True
                yield Finding(errors.popleft(), ends_run=True)
            for number, example in enumerate(examples, 1):
                if example.flaw not in (None, BROKEN):
                    inside = place.at(f"item {number}") if data_format == "chameleons" else place
                    yield Finding(inside.say(str(example.flaw)), ends_run=False)
            if examples:
                counts.add(user.identity, len(examples))
    except DataError as error:
        refused(error)
    while errors:
        yield Finding(errors.popleft(), ends_run=True)
        broken = True
    if not counts.items and not broken:
        yield Finding(f"{path}: holds no items of format {data_format}", ends_run=True)
