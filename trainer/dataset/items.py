"""What every format is read into: rows of items. One item is one training example.

A content key (sha256 over user and text) stands for an item wherever a choice must not depend on the file's order.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

NO_ANSWER = "empty answer"
NOT_ASKED = "context does not end with the interlocutor"
NO_PROMPT = "nothing before the answer"
BROKEN = "not of the format"
THINKING = "a <think> block in the answer"


class Turn(NamedTuple):
    """One utterance. role: user (the interlocutor), assistant (the person to be learned), system or tool."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class User:
    """identity: user_hash, else the profile's name, else None; tags: lines of the profile block."""

    identity: str | None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One example: `answer` follows `turns`; `query` names what is asked for (a film title, a question)."""

    user: User
    turns: tuple[Turn, ...]
    answer: str
    query: str
    time: float | None
    """Seconds since 1970, where the file has a timestamp that can be read."""
    order: int
    """Position in the file, counted over all rows."""
    key: str
    row: str
    """Content key of the row it stands in."""
    flaw: str | None
    """Why it cannot be used, or None."""

    @property
    def line(self) -> str:
        """The item as one utterance of a history."""
        return f"{self.query} {self.answer}" if self.query else self.answer


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON row (or line) of the file."""

    key: str
    items: tuple[Item, ...]


def answer_flaw(*trained: str) -> str | None:
    """Why texts cannot be trained, or None: an empty one, or one that would teach a think block."""
    if not all(trained):
        return NO_ANSWER
    return THINKING if any("<think>" in text or "</think>" in text for text in trained) else None


def content_key(*parts: object) -> str:
    """32 hex digits of sha256 over JSON-like parts: equal content, equal key."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()[:32]


def share(*parts: object) -> float:
    """A number in [0, 1) that looks random but is a function of the parts."""
    return int(content_key(*parts)[:16], 16) / 2**64


class Example(NamedTuple):
    """What a reader found before keys are known."""

    turns: tuple[Turn, ...]
    answer: str
    query: str = ""
    time: float | None = None
    flaw: str | None = None


def build_row(user: User, examples: Sequence[Example], first: int) -> Row:
    """The row of one user with keys filled in; `first` is the file position of its first item."""
    identity = user.identity
    keys = [content_key(identity, e.turns, e.query, e.answer) for e in examples]
    row = content_key(identity, keys)
    items = (
        Item(user, e.turns, e.answer, e.query, e.time, first + place, key, row, e.flaw)
        for place, (e, key) in enumerate(zip(examples, keys, strict=True))
    )
    return Row(row, tuple(items))
