"""From one format to another, as far as nothing that the trainer reads is lost.

What is written for an item is read back at once, and has to be the same item, of which the same is trained. What stands
in a file and is read by nobody (descriptions, speakers' names) is not carried over.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from trainer.dataset.formats import Entry, Format, entries, parse
from trainer.dataset.items import Example, Turn, User
from trainer.dataset.source import Place, Progress
from trainer.dataset.writing import write_rows

Part = Literal["profile", "query", "time", "rows", "items"]
PARTS: tuple[Part, ...] = get_args(Part)
"""What may be left out: of items the profile, the question and the timestamp; which items stand in one row; items that
the other format cannot say."""
_WHAT = {
    "profile": "the profile has",
    "query": "what is asked about (continuation_prefix, a questionnaire's question) has",
    "time": "the timestamp has",
}


@dataclass
class Converted:
    """items: written; left_out: by part, how many items (or rows) it was left out of."""

    items: int = 0
    left_out: Counter[Part] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Way:
    source: Format
    target: Format
    without: frozenset[Part]


def convert(
    path: Path, source: Format, out: Path, target: Format, without: Sequence[Part], progress: Progress
) -> Converted:
    """Write `path` as `target` to `out`. DataError, and nothing is written, at the first item that would lose something
    that is not named in `without`, and where a file is wrong or cannot be written."""
    done, way = Converted(), _Way(source, target, frozenset(without))

    def rows() -> Iterator[Any]:
        for entry in entries(source, path):
            progress(entry.place.byte)
            if len(entry.examples) > 1:
                _leave_out("rows", entry.place, way, done)
            for number, example in enumerate(entry.examples, 1):
                value = _converted(entry, number, example, way, done)
                if value is not None:
                    done.items += 1
                    yield value

    write_rows(out, target, rows())
    return done


def _converted(entry: Entry, number: int, example: Example, way: _Way, done: Converted) -> Any:
    """The item's row in the other format; None where it is left out."""
    place = entry.place.at(f"item {number}") if way.source == "chameleons" else entry.place
    user = entry.user
    value = _value(user, example, way.target)
    again, (read,) = parse(way.target, place, value)
    # _said has the same words as the trainer's own readers: role, text and answer of what is trained.
    if user.identity != again.identity or _said(example, way.source) != _said(read, way.target):
        _leave_out("items", place, way, done)
        return None
    if user.tags:
        _leave_out("profile", place, way, done)
    if example.query:
        _leave_out("query", place, way, done)
    if example.time is not None:
        _leave_out("time", place, way, done)
    return value


def _said(example: Example, data_format: Format) -> tuple[object, ...]:
    """What is shown, what is trained of it, and whether it can be used at all."""
    answers = [turn.text for turn in example.turns if turn.role == "assistant"] if data_format == "messages" else []
    return example.turns, example.answer, tuple(answers), example.flaw


def _leave_out(part: Part, place: Place, way: _Way, done: Converted) -> None:
    if part in way.without:
        done.left_out[part] += 1
        return
    add = f"add --without {part} to leave it out"
    if part == "rows":
        place.fail(
            f"a row of {way.target} has one item, and sample and validation can go by rows: --without rows parts it"
        )
    if part == "items":
        place.fail(f"{way.target} cannot say this item so that the same is trained: --without items leaves such out")
    place.fail(f"{_WHAT[part]} no place in {way.target}: {add}")


def _value(user: User, example: Example, target: Format) -> dict[str, Any]:
    owner = {} if user.identity is None else {"user_hash": user.identity}
    if target == "chameleons":
        context = [{"source": _source(turn), "content": turn.text} for turn in example.turns]
        data = {"context": context, "continuation": example.answer}
        return owner | {"task": {"task_behavior_collections": [{"data": [data]}]}}
    turns = [{"role": turn.role, "content": turn.text} for turn in example.turns]
    if target == "messages":
        return {"messages": [*turns, {"role": "assistant", "content": example.answer}]} | owner
    alone = len(turns) == 1 and turns[0]["role"] == "user"
    return {"prompt": turns[0]["content"] if alone else turns, "completion": example.answer} | owner


def _source(turn: Turn) -> str:
    return "user" if turn.role == "assistant" else "other"
