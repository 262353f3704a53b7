"""Which part of the data is used. Drawn once, before anything else, over usable and unusable items alike."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

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
    stream = random.Random(seed)
    return [row.items[place] for row in rows for place in drawn_of_row(stream, len(row.items), most)]


def drawn_of_row(stream: random.Random, items: int, most: int) -> Sequence[int]:
    """Places of a row's chosen items, by the seed's sampler: one random stream over the rows in file order; rows
    within the cap draw nothing."""
    return stream.sample(range(items), most) if items > most else range(items)


def _per_user(units: Sequence[tuple[str | None, str]], sample: Sample) -> list[int]:
    """Indices of the units with the smallest hashes of each user, in file order. Units without a user stand alone."""
    ranks = [rank_of(sample, identity, key, index) for index, (identity, key) in enumerate(units)]
    owners = [identity for identity, _ in units]
    last = last_ranks(zip(owners, ranks, strict=True), sample.max)
    return [i for i, owner in enumerate(owners) if owner is None or ranks[i] <= last[owner]]


Rank = tuple[str, int]
"""A unit's hash and its number in the file: a user's smallest are chosen."""


def rank_of(sample: Sample, identity: str | None, key: str, number: int) -> Rank:
    """The rank of the unit with content key `key`; without a user it stands alone and needs none."""
    return ("" if identity is None else content_key("sample", sample.seed, identity, key)), number


def last_ranks(ranked: Iterable[tuple[str | None, Rank]], most: int) -> dict[str, Rank]:
    """Of each user the largest rank among its `most` smallest. Holds at most twice as many of each at a time."""
    smallest: dict[str, list[Rank]] = defaultdict(list)
    for owner, rank in ranked:
        if owner is not None:
            smallest[owner].append(rank)
            if len(smallest[owner]) == 2 * most:
                smallest[owner] = sorted(smallest[owner])[:most]
    return {owner: sorted(ranks)[:most][-1] for owner, ranks in smallest.items()}
