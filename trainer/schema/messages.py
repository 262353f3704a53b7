"""What a run says to programs, each written and read here: log lines, and the termination message.

The trainer writes, kctl reads; whatever else stands in a log or in a message is let through or left out.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.schema.redaction import redacted

_STEP = re.compile(r"(?:^|\s)step=(\d{1,12})/(\d{1,12}) (?=loss=)")
_PAIR = re.compile(r"(\w+)=([-+]?(?:\d{1,400}(?:\.\d{0,40})?(?:e[-+]?\d{1,4})?|nan|inf))(?=\s|$)", re.IGNORECASE)
_RANK = re.compile(r"\[rank(\d{1,6})\] ")
_ATTEMPT = re.compile(r"attempt (\d{1,6}) of [a-z][a-z0-9-]*, newest checkpoint: ")


@dataclass(frozen=True)
class Step:
    """What is read from a step line: updates done and in all, loss (nats per label), seconds left, tokens per second
    of all ranks, GiB of memory at most."""

    step: int
    steps: int
    loss: float
    eta_s: float | None = None
    tokens_per_s: float | None = None
    mem_gib: float | None = None


def step_line(record: Mapping[str, float]) -> str:
    """`step=100/1000 loss=1.2345 lr=2.0e-04 grad_norm=0.81 tokens_per_s=5210 mem_gib=31.2 eta_s=5400`."""
    return (
        f"step={record['step']:.0f}/{record['steps']:.0f} loss={record['loss']:.4f} lr={record['lr']:.1e} "
        f"grad_norm={record['grad_norm']:.2f} tokens_per_s={record['tokens_per_s']:.0f} "
        f"mem_gib={record['mem_gib']:.1f} eta_s={record['eta_s']:.0f}"
    )


def parse_step_line(text: str) -> Step | None:
    """The step line in `text`, or None where there is none."""
    first = _STEP.search(text)
    if first is None:
        return None
    pairs = {name: float(value) for name, value in _PAIR.findall(text[first.end() :])}
    if "loss" not in pairs:
        return None
    return Step(
        step=int(first[1]),
        steps=int(first[2]),
        loss=pairs["loss"],
        eta_s=pairs.get("eta_s"),
        tokens_per_s=pairs.get("tokens_per_s"),
        mem_gib=pairs.get("mem_gib"),
    )


def attempt_line(attempt: int, run: str, newest: int) -> str:
    """What the launcher says when attempt number `attempt` begins; `newest`: step of the newest checkpoint, or 0."""
    return f"attempt {attempt} of {run}, newest checkpoint: {f'step {newest}' if newest else 'none'}"


def parse_attempt_line(text: str) -> int | None:
    """The attempt's number where `text` is such a line."""
    match = _ATTEMPT.match(text)
    return int(match[1]) if match else None


def as_rank(text: str, rank: int) -> str:
    """`text` as rank number `rank` prints it: rank 0 as it is, the others with `[rank3] ` before each line."""
    return text if rank == 0 else "".join(f"[rank{rank}] {line}" for line in text.splitlines(keepends=True))


def rank_of(line: str) -> int:
    """The rank that printed a line; 0 for lines of rank 0, of the launcher and of libraries."""
    match = _RANK.match(line)
    return int(match[1]) if match else 0


@dataclass(frozen=True)
class Message:
    """A pod's termination message, as far as it says something."""

    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    code: int | None = None
    sentence: str | None = None
    attempt: int | None = None


def parse_message(text: str) -> Message:
    """A termination message; fields of the wrong type are left out, text that is no JSON object is the sentence."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return Message(sentence=redacted(text.strip()).splitlines()[-1][:500] if text.strip() else None)
    return Message(
        step=whole(value.get("step")),
        steps=whole(value.get("steps")),
        loss=number(value.get("loss")),
        code=whole(value.get("code")),
        sentence=_text(value.get("sentence")),
        attempt=whole(value.get("attempt")),
    )


def _text(value: Any) -> str | None:
    return " ".join(value.split()) if isinstance(value, str) and value.strip() else None


def whole(value: Any) -> int | None:
    """A whole number of JSON that somebody else wrote; None for all else, and from 1e15 on: no count is so large."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15 else None


def number(value: Any) -> float | None:
    """A number of JSON that somebody else wrote; None for all else, NaN, and from 1e100 on.

    Sums and distances of larger ones may have no end, and an int of 400 digits is no float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e100:
        return None
    return float(value)
