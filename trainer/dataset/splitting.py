"""What is held out, by hash: the same items whatever the order of the file, copies on one side.

An item that is trained is never held out as well; a copy of it on the other side is dropped and counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.dataset.items import Item, share
from trainer.schema.data import Validation

COPY = "held-out copy of a training item"


@dataclass(frozen=True)
class Split:
    """Both sides in the order given; copies: how many held-out items were dropped."""

    train: list[Item]
    held: list[Item]
    copies: int


def split_items(items: Sequence[Item], validation: Validation) -> Split:
    """Hold out `ratio` of the items, rows or users. Where two could be told apart, neither side is empty.

    unit item: inside each user, and one item of every user is trained.
    """
    names = [_name(item, validation.unit) for item in items]
    shares = {name: share("split", validation.seed, name) for name in names}
    owners = [item.user.identity if validation.unit == "item" else None for item in items]
    stay = _largest_of_each(zip(owners, names, strict=True), shares)
    free = [name for name in shares if name not in stay]
    chosen = {name for name in free if shares[name] < validation.ratio}
    if free and not chosen:
        chosen = {min(free, key=lambda name: (shares[name], name))}
    train = [item for item, name in zip(items, names, strict=True) if name not in chosen]
    held = [item for item, name in zip(items, names, strict=True) if name in chosen]
    return without_copies(train, held)


def without_copies(train: list[Item], held: list[Item]) -> Split:
    """Both sides, without held-out items whose user, context and answer are also trained."""
    trained = {item.key for item in train}
    different = [item for item in held if item.key not in trained]
    return Split(train, different, len(held) - len(different))


def _name(item: Item, unit: str) -> str:
    if unit == "item":
        return item.key
    if unit == "user" and item.user.identity is not None:
        return f"user {item.user.identity}"
    return item.row


def _largest_of_each(pairs: Iterable[tuple[str | None, str]], shares: dict[str, float]) -> set[str]:
    """The name with the largest share of every owner, and the largest of all: these are trained in any case."""
    largest: dict[str, str] = {}
    top = ""
    for owner, name in pairs:
        top = max(top, name, key=lambda one: (shares.get(one, -1.0), one))
        if owner is not None:
            largest[owner] = max(largest.get(owner, name), name, key=lambda one: (shares[one], one))
    return {top, *largest.values()}
