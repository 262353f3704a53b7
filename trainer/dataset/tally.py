"""Counts of rows, made apart by several processes and added up. Texts are remembered as 8 bytes of hash each."""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from trainer.dataset.items import Example, User
from trainer.dataset.ruler import How, Measured, Ruler

_SHARDS = 64
"""Hashes are counted shard by shard, so that the set of all of them never exists."""
_BATCH = 512
_MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf]|\u00e2\u20ac|\u00c2[\u00a0-\u00bf]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_APART = "\x1f"
"""Between texts that are hashed together: no text of dialogue has it."""


@dataclass(frozen=True)
class Held:
    """Usable held-out items as hashes, one an item in each: user (0 without), user and text, text, answer."""

    users: "array[int]" = field(default_factory=lambda: array("Q"))
    items: "array[int]" = field(default_factory=lambda: array("Q"))
    texts: "array[int]" = field(default_factory=lambda: array("Q"))
    answers: "array[int]" = field(default_factory=lambda: array("Q"))

    def add(self, user: User, example: Example) -> None:
        owner, text = hashed(user.identity), hashed(_APART.join(_texts(example)))
        self.users.append(owner)
        self.items.append(owner ^ text)
        self.texts.append(text)
        self.answers.append(hashed(example.answer))


class Sought:
    """Which hashes of held-out items were met among training items."""

    def __init__(self, held: Held) -> None:
        self._users, self._items = frozenset(held.users) - {0}, frozenset(held.items)
        self._texts, self._answers = frozenset(held.texts), frozenset(held.answers)
        self.users, self.items, self.texts = set[int](), set[int](), set[int]()
        self.answers, self.shown = set[int](), set[int]()

    def meet(self, owner: int, text: int, answer: int, example: Example) -> None:
        self.users |= {owner} & self._users
        self.items |= {owner ^ text} & self._items
        self.texts |= {text} & self._texts
        self.answers |= {answer} & self._answers
        self.shown |= {hashed(turn.text) for turn in example.turns} & self._answers

    def merge(self, other: "Sought") -> None:
        for name in ("users", "items", "texts", "answers", "shown"):
            getattr(self, name).update(getattr(other, name))


class Tally:
    """What was counted so far. Adds rows, or another tally of the same `how`."""

    def __init__(self, how: How, held: Held | None) -> None:
        self.rows = self.items = self.tokens = self.trained = self.longest = 0
        self.alone = Counter[int]()
        """Items of a row without a user -> rows."""
        self.users: dict[int, tuple[int, int]] = {}
        """Hash of a user -> (rows with items, items)."""
        self.per_row, self.lengths = Counter[int](), Counter[int]()
        self.unusable, self.characters = Counter[str](), Counter[str]()
        self.cuts = {most: Counter[str]() for most in how.max_lengths}
        self.seen = {kind: [array("Q") for _ in range(_SHARDS)] for kind in ("items", "texts", "answers")}
        self.sought = None if held is None else Sought(held)

    def add_rows(self, rows: Iterable[tuple[User, Sequence[Example]]], measure: Ruler) -> None:
        batch: list[tuple[User, Example]] = []
        for user, examples in rows:
            self._add_row(user, len(examples))
            for example in examples:
                if example.flaw is None:
                    batch.append((user, example))
                else:
                    self.unusable[example.flaw] += 1
            if len(batch) >= _BATCH:
                self._add_usable(batch, measure)
                batch = []
        self._add_usable(batch, measure)

    def merge(self, other: "Tally") -> None:
        self.rows += other.rows
        self.items += other.items
        self.tokens += other.tokens
        self.trained += other.trained
        self.longest = max(self.longest, other.longest)
        for user, (rows, items) in other.users.items():
            before = self.users.get(user, (0, 0))
            self.users[user] = before[0] + rows, before[1] + items
        for name in ("alone", "per_row", "lengths", "unusable", "characters"):
            getattr(self, name).update(getattr(other, name))
        for most, counts in other.cuts.items():
            self.cuts[most].update(counts)
        for kind, shards in other.seen.items():
            for mine, more in zip(self.seen[kind], shards, strict=True):
                mine.extend(more)
        if self.sought is not None and other.sought is not None:
            self.sought.merge(other.sought)

    def repeated(self, kind: str) -> int:
        """How many of the usable items are no first ones of their kind: items, texts or answers."""
        return sum(len(shard) - len(set(shard)) for shard in self.seen[kind])

    def _add_row(self, user: User, items: int) -> None:
        self.rows += 1
        self.items += items
        self.per_row[items] += 1
        if items and user.identity is None:
            self.alone[items] += 1
        elif items:
            owner = hashed(user.identity)
            rows, before = self.users.get(owner, (0, 0))
            self.users[owner] = rows + 1, before + items

    def _add_usable(self, batch: Sequence[tuple[User, Example]], measure: Ruler) -> None:
        known: User | None = None
        owner = 0
        for (user, example), measured in zip(batch, measure(batch), strict=True):
            if measured.flaw is not None:
                self.unusable[measured.flaw] += 1
                continue
            self._add_lengths(measured)
            texts = _texts(example)
            self._add_characters(texts)
            if user is not known:  # the items of a row come one after the other
                known, owner = user, hashed(user.identity)
            self._add_hashes(owner, hashed(_APART.join(texts)), hashed(example.answer), example)

    def _add_hashes(self, owner: int, text: int, answer: int, example: Example) -> None:
        for kind, key in (("items", owner ^ text), ("texts", text), ("answers", answer)):
            self.seen[kind][key % _SHARDS].append(key)
        if self.sought is not None:
            self.sought.meet(owner, text, answer, example)

    def _add_lengths(self, measured: Measured) -> None:
        tokens, trained, _, cut = measured
        self.lengths[_bucket(tokens)] += 1
        self.tokens += tokens
        self.trained += trained
        self.longest = max(self.longest, tokens)
        for most, counts in self.cuts.items():
            left = (tokens, trained) if tokens <= most else (cut or {})[most]
            if left is None:
                counts["dropped"] += 1
                continue
            counts["shortened"] += tokens > most
            counts["tokens"] += left[0]
            counts["trained_tokens"] += left[1]

    def _add_characters(self, texts: Sequence[str]) -> None:
        if not all(map(str.isprintable, texts)) and any(map(_CONTROL.search, texts)):
            self.characters["control"] += 1
        if not all(map(str.isascii, texts)):
            self.characters["non_ascii"] += 1
            self.characters["replacement"] += any("\ufffd" in text for text in texts)
            self.characters["mojibake"] += any(map(_MOJIBAKE.search, texts))


def hashed(text: str | None) -> int:
    """64 bits; 0 for None."""
    if text is None:
        return 0
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def held_of(rows: Iterator[tuple[User, Sequence[Example]]]) -> Held:
    """The usable items of a file that is held out."""
    held = Held()
    for user, examples in rows:
        for example in examples:
            if example.flaw is None:
                held.add(user, example)
    return held


def _texts(example: Example) -> list[str]:
    texts = [turn.text for turn in example.turns]
    texts += example.query, example.answer
    return texts


def _bucket(tokens: int) -> int:
    """`tokens` below 1,024; else rounded up to a multiple of at most a 512th of it."""
    step = 1 << max(tokens.bit_length() - 10, 0)
    return -(-tokens // step) * step
