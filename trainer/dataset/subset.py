"""A part of a file as a file: the items that train.data.sample would choose from the whole, everything of them kept.

The file is read once for `per: row`, else twice; in memory are its largest row and, of each group, twice `max` ranks.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from trainer.dataset.formats import Entry, Format, entries
from trainer.dataset.items import Row, build_row
from trainer.dataset.sampling import Rank, drawn_of_row, last_ranks, rank_of
from trainer.dataset.source import Progress
from trainer.dataset.tally import hashed
from trainer.dataset.writing import write_rows
from trainer.schema.data import Sample

Chooser = Callable[[Row], set[int]]
"""Places of the chosen items of a row; asked about every row in file order, once."""


@dataclass
class Counts:
    """Rows with items, different users (a row without one counts as one) and items of a file."""

    rows: int = 0
    items: int = 0
    alone: int = 0

    def __post_init__(self) -> None:
        self._known: set[int] = set()

    @property
    def users(self) -> int:
        return len(self._known) + self.alone

    def add(self, identity: str | None, items: int) -> None:
        if items:
            self.rows += 1
            self.items += items
            if identity is None:
                self.alone += 1
            else:
                self._known.add(hashed(identity))


@dataclass(frozen=True)
class Draw:
    """What is drawn: train.data.sample, with the whole file as the one group of `per` where `whole`."""

    sample: Sample
    whole: bool = False

    def ranked(self, row: Row) -> list[tuple[str | None, Rank]]:
        """Group and rank of the row's units: itself, or its items."""
        by_row = self.sample.unit == "row"
        units = [(item, row.key if by_row else item.key) for item in (row.items[:1] if by_row else row.items)]
        groups = ["" if self.whole else item.user.identity for item, _ in units]
        return [
            (group, rank_of(self.sample, group, key, item.order))
            for group, (item, key) in zip(groups, units, strict=True)
        ]


def write_sample(path: Path, out: Path, data_format: Format, draw: Draw, progress: Progress) -> tuple[Counts, Counts]:
    """Write the chosen items of `path` to `out`; counts before and after. Rows of which nothing is chosen are left out.

    DataError: a row is wrong (then nothing is written), or `out` cannot be written.
    """
    by_stream = draw.sample.per == "row" and not draw.whole
    choose = _by_stream(draw.sample) if by_stream else _by_rank(path, data_format, draw, progress)
    before, after = Counts(), Counts()

    def kept() -> Iterator[Any]:
        for entry, row in _rows(path, data_format, progress):
            chosen = choose(row)
            before.add(entry.user.identity, len(row.items))
            after.add(entry.user.identity, len(chosen))
            if len(chosen) == len(row.items) > 0:
                yield entry.value
            elif chosen:
                yield _with_items(entry, chosen)

    write_rows(out, data_format, kept())
    return before, after


def _rows(path: Path, data_format: Format, progress: Progress) -> Iterator[tuple[Entry, Row]]:
    first = 0
    for entry in entries(data_format, path):
        progress(entry.place.byte)
        yield entry, build_row(entry.user, entry.examples, first)
        first += len(entry.examples)


def _by_stream(sample: Sample) -> Chooser:
    stream = random.Random(sample.seed)
    return lambda row: set(drawn_of_row(stream, len(row.items), sample.max))


def _by_rank(path: Path, data_format: Format, draw: Draw, progress: Progress) -> Chooser:
    every = (pair for _, row in _rows(path, data_format, progress) for pair in draw.ranked(row))
    last = last_ranks(every, draw.sample.max)

    def choose(row: Row) -> set[int]:
        ranked = enumerate(draw.ranked(row))
        chosen = {place for place, (group, rank) in ranked if group is None or rank <= last[group]}
        return set(range(len(row.items))) if chosen and draw.sample.unit == "row" else chosen

    return choose


def _with_items(entry: Entry, chosen: set[int]) -> Any:
    """The row (of format chameleons, the others have one item) with the chosen items; collections keep their bounds."""
    task, number = entry.value["task"], count()
    groups = [
        group | {"data": [item for item in group.get("data") or [] if next(number) in chosen]}
        for group in task["task_behavior_collections"]
        if group
    ]
    kept = [group for group in groups if group["data"]]
    return entry.value | {"task": task | {"task_behavior_collections": kept}}
