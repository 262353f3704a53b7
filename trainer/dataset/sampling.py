"""Which part of the data is used. Drawn once, before anything else, over usable and unusable items alike."""

import random
from collections import defaultdict
from collections.abc import Sequence

from trainer.dataset.items import Item, Row, content_key
from trainer.schema.data import Sample


def sample_items(rows: Sequence[Row], sample: Sample | None) -> list[Item]:
    """The items to use. Per row: the seed's order (a row over the cap comes shuffled); else the order of the file."""
    if sample is None:
        return [item for row in rows for item in row.items]
    if sample.per == "row":
        return _per_row(rows, sample.max, sample.seed)
    if sample.unit == "row":
        filled = [row for row in rows if row.items]
        chosen = _per_user([(row.items[0].user.identity, row.key) for row in filled], sample)
        return [item for index in chosen for item in filled[index].items]
    items = [item for row in rows for item in row.items]
    chosen = _per_user([(item.user.identity, item.key) for item in items], sample)
    return [items[index] for index in chosen]


def _per_row(rows: Sequence[Row], most: int, seed: int) -> list[Item]:
    """The seed's sampler: one random stream over the rows in file order; rows within the cap draw nothing."""
    stream = random.Random(seed)
    chosen: list[Item] = []
    for row in rows:
        chosen += stream.sample(row.items, most) if len(row.items) > most else row.items
    return chosen


def _per_user(units: Sequence[tuple[str | None, str]], sample: Sample) -> list[int]:
    """Indices of the units with the smallest hashes of each user, in file order. Units without a user stand alone."""
    groups: dict[str, list[tuple[str, int]]] = defaultdict(list)
    chosen = []
    for index, (identity, key) in enumerate(units):
        if identity is None:
            chosen.append(index)
        else:
            groups[identity].append((content_key("sample", sample.seed, identity, key), index))
    for group in groups.values():
        chosen += [index for _, index in sorted(group)[: sample.max]]
    return sorted(chosen)
