"""What the preparation did, in numbers: written before training, read by people and by kctl."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

PADDED_BATCH = 16
"""Neighbouring items that a padded batch would hold; only the report's padding share uses it."""


@dataclass(frozen=True)
class Report:
    """rows and users: of the training file; items_read: before sampling, items: after it, both files together."""

    rows: int
    users: int
    items_read: int
    items: int
    train: int
    validation: int
    validation_ratio: float
    """What was held out as a share of all that is kept."""
    dropped: dict[str, int]
    """Reason -> items, both splits."""
    shortened: int
    """Items that lost their oldest turns or history lines."""
    turns_dropped: int
    """Turns and history lines left out of them."""
    fallbacks: int
    """Conversations of which only the last answer is trained."""
    lengths: dict[str, int]
    """"<=128" -> training items of at most that many tokens and more than the bucket before."""
    length_p50: int
    length_p90: int
    length_p99: int
    length_max: int
    tokens: int
    """Of all training items."""
    trained_tokens: int
    """Tokens of them that count in the loss."""
    padding_share: float
    """Padding in batches of 16 neighbours, each padded to its longest; packing has none of it."""
    repeated_answers: int
    """Training items whose answer an earlier item has, too."""
    seen_validation_answers: int
    """Held-out answers that stand word for word in a training item's context or history."""
    tokenizer: str = ""
    """sha256 over the files that make tokens of text: tokenizer and chat template."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """ValueError, KeyError or TypeError where the text is no report."""
        value = json.loads(text)
        return cls(**{field.name: value[field.name] for field in fields(cls)})

    def lines(self) -> list[str]:
        """At most 20 lines for people."""
        dropped = [f"  {count} {reason}" for reason, count in _largest_first(self.dropped)]
        if len(dropped) > 7:
            dropped = [*dropped[:6], f"  {sum(self.dropped.values())} in all, for {len(dropped)} reasons"]
        padding = f"{self.padding_share:.0%} of a padded batch of {PADDED_BATCH} would be padding"
        held = f"validation items {self.validation} ({self.validation_ratio:.1%})"
        lines = [
            f"read: rows {self.rows}, users {self.users}, items {self.items_read}, used {self.items}",
            f"kept: training items {self.train}, {held}",
            f"dropped: {sum(self.dropped.values())} items",
            *dropped,
            f"shortened to max_length: {self.shortened} items, which lost {self.turns_dropped} turns or history lines",
            f"tokens an item: median {self.length_p50}, p90 {self.length_p90}, "
            f"p99 {self.length_p99}, longest {self.length_max}",
            "items by tokens: " + ", ".join(f"{bucket}: {count}" for bucket, count in self.lengths.items()),
            f"tokens: {self.tokens}, trained on {self.trained_tokens}; {padding}",
            f"answers: {self.repeated_answers} repeat an earlier training answer, "
            f"{self.seen_validation_answers} held-out ones stand in training contexts",
        ]
        if self.fallbacks:
            lines.append(f"only the last answer is trained in {self.fallbacks} conversations (chat template)")
        return lines


@dataclass(frozen=True)
class LengthFacts:
    """Length figures of the training items."""

    lengths: dict[str, int]
    length_p50: int
    length_p90: int
    length_p99: int
    length_max: int
    tokens: int
    padding_share: float


def length_facts(lengths: Sequence[int]) -> LengthFacts:
    """Histogram in powers of two, percentiles (nearest rank), total, padding share. `lengths` is not empty."""
    ordered = sorted(lengths)
    buckets: dict[int, int] = {}
    for length in ordered:
        bucket = max(64, 1 << (length - 1).bit_length())
        buckets[bucket] = buckets.get(bucket, 0) + 1
    p50, p90, p99 = (ordered[(len(ordered) * percent - 1) // 100] for percent in (50, 90, 99))
    batches = [lengths[start : start + PADDED_BATCH] for start in range(0, len(lengths), PADDED_BATCH)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    histogram = {f"<={bucket}": count for bucket, count in buckets.items()}
    return LengthFacts(histogram, p50, p90, p99, ordered[-1], sum(ordered), round(1 - sum(ordered) / padded, 4))


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
