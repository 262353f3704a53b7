"""What a file of dialogue is, in numbers: what `kctl data stats -o json` writes and `kctl plan --stats` reads."""

import json
from dataclasses import asdict, dataclass, fields

from trainer.errors import DataError

VERSION = 1

Histogram = list[tuple[int, int]]
"""(value, how many have it), by value."""


@dataclass(frozen=True)
class Shortening:
    """What becomes of the usable items at one train.data.max_length."""

    max_length: int
    shortened: int
    """Items that lose their oldest turns so that they fit."""
    dropped: int
    """Items that do not fit even so, and are not trained."""
    tokens: int
    """Tokens of all items that are left, prompt and answer."""
    trained_tokens: int
    """Tokens of them that count in the loss."""


@dataclass(frozen=True)
class Duplicates:
    """Items beyond the first that have something in common with an earlier one."""

    items: int
    """The same user, context, question and answer."""
    texts: int
    """The same context, question and answer, whoever the user."""
    answers: int
    """The same answer."""


@dataclass(frozen=True)
class Leaks:
    """Usable held-out items (of --validation) that training would give away."""

    held_out: int
    """Usable items of the other file."""
    copies: int
    """Held-out items that stand in the training file, too: same user, context, question and answer. Training drops
    them from what is held out."""
    texts: int
    """The same context, question and answer, whoever the user."""
    answers: int
    """Held-out items whose answer is a training item's answer."""
    shown: int
    """Held-out items whose answer stands word for word in a training item's context."""
    users: int
    """Users of held-out items with training items: wanted where items are held out, a leak where users are."""


@dataclass(frozen=True)
class Division:
    """What a run's train.data.sample and validation make of the file, as its data-report.json will say."""

    train: int
    held_out: int
    copies: int
    """Items that would have been held out, and are dropped since the same is trained."""
    repeated_answers: int
    """Training items whose answer an earlier item has, too."""
    answers: int
    """Held-out items whose answer is a training item's answer."""
    shown: int
    """Held-out items whose answer stands word for word in a training item's context or history."""
    users: int
    """Users of held-out items with training items: wanted where items are held out, a leak where users are."""


@dataclass(frozen=True)
class Characters:
    """Usable items by what their texts hold; an item may be in several."""

    non_ascii: int
    replacement: int
    """U+FFFD: something was lost when the text was decoded."""
    mojibake: int
    """UTF-8 that was read as Latin-1 or Windows-1252 and written again: an a with tilde, a copyright sign."""
    control: int
    """Control characters other than tab and line ends."""
    byte_order_mark: bool
    """The file begins with one, which is no text."""


@dataclass(frozen=True)
class Stats:
    """Counts are of the whole file; lengths and tokens are of one item with its prompt, before anything is shortened,
    of usable items. A history block, which depends on what is held out, is not in them."""

    version: int
    path: str
    """As it was named."""
    bytes: int
    format: str
    """chameleons, messages or prompt_completion."""
    blocks: list[str]
    """Blocks of the prompt of format chameleons that lengths were taken with; empty for the others."""
    exact: bool
    """Lengths are a tokenizer's; else they are estimated from bytes (trainer.dataset.ruler)."""
    tokenizer: str
    """sha256 over the files that make tokens of text, as in a run's data-report.json; empty where not exact."""
    rows: int
    users: int
    """Different users among the rows with items; a row without a user counts as one."""
    items: int
    unusable: dict[str, int]
    """Reason -> items that training drops whatever max_length is."""
    items_per_row: Histogram
    items_per_user: Histogram
    rows_per_user: Histogram
    """All items, usable or not, as the samplers count them: items at `sample: {unit: item, per: row, max: M}` are the
    sum of min(value, M) * count. Rows without items are in the first alone."""
    lengths: Histogram
    """(tokens, items); from 1,024 tokens on the upper end of a bucket that is at most 0.2 % wide."""
    length_p50: int
    length_p90: int
    length_p99: int
    length_max: int
    tokens: int
    trained_tokens: int
    """Tokens that count in the loss: answers, and what is trained around them."""
    shortening: list[Shortening]
    """By max_length, in the order asked for."""
    duplicates: Duplicates
    leaks: Leaks | None
    """None where no other file was named."""
    division: Division | None
    """None where it was not asked for."""
    characters: Characters

    @property
    def usable(self) -> int:
        """Items that can be trained."""
        return self.items - sum(self.unusable.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Stats":
        """DataError, which names `where`, for what `to_json` of this version did not write."""
        try:
            value = json.loads(text)
            if value["version"] != VERSION:
                raise DataError(f"{where}: version {value['version']} of kctl data stats, not {VERSION}: make it again")
            value["shortening"] = [Shortening(**one) for one in value["shortening"]]
            value["duplicates"] = Duplicates(**value["duplicates"])
            value["leaks"] = None if value["leaks"] is None else Leaks(**value["leaks"])
            value["division"] = None if value["division"] is None else Division(**value["division"])
            value["characters"] = Characters(**value["characters"])
            for name in ("items_per_row", "items_per_user", "rows_per_user", "lengths"):
                value[name] = [(int(one), int(count)) for one, count in value[name]]
            return cls(**{field.name: value[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: not written by kctl data stats -o json ({error}): make it again") from None
