"""Format chameleons and its siblings: a JSON array of users, each with collections of dialogue items.

Every key but the envelope is optional. A null text or a wrong type is an error with its place; an item that is
merely unusable keeps its place in the row (the samplers count it) and says why in `flaw`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer.dataset.items import BROKEN, NOT_ASKED, Example, Row, Turn, User, answer_flaw, build_row
from trainer.dataset.json_array import json_rows
from trainer.dataset.profile import tag_lines
from trainer.dataset.source import Place, Refused, as_list, as_object, as_text, kind
from trainer.errors import DataError

_DATES = ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m")


def read_chameleons(path: Path) -> list[Row]:
    """All rows in file order. DataError where the file or a row is not of this format."""
    rows: list[Row] = []
    count = 0
    for place, value in json_rows(path):
        rows.append(build_row(*parse_chameleons(place, value), count))
        count += len(rows[-1].items)
    return rows


def parse_chameleons(place: Place, value: Any, refused: Refused | None = None) -> tuple[User, list[Example]]:
    """One row's user and items. DataError with its place.

    An item's own goes to `refused` if that is given, and a BROKEN item stands in its place.
    """
    try:
        user, name = _user(place, value)
        examples: list[Example] = []
        for number, item in enumerate(data_items(place, value), 1):
            try:
                examples.append(_example(place.at(f"item {number}"), item, name))
            except DataError as error:
                if refused is None:
                    raise
                refused(error)
                examples.append(Example((), "", flaw=BROKEN))
    except RecursionError:
        place.fail("nested too deep")
    return user, examples


def data_items(place: Place, row: dict[str, Any]) -> Iterator[Any]:
    """What stands in a row's lists of items, in order. DataError where a list or what holds it is none."""
    task = as_object(place, row.get("task"), "task")
    for collection in as_list(place, task.get("task_behavior_collections"), "task.task_behavior_collections"):
        yield from as_list(place, as_object(place, collection, "a collection").get("data"), "data")


def _user(place: Place, value: Any) -> tuple[User, str]:
    """The user, and the name that its own turns may bear."""
    if not isinstance(value, dict):
        place.fail(f"a row must be an object, got {kind(value)}")
    section = as_object(place, value.get("user"), "user")
    profile = as_object(place, section.get("profile"), "user.profile")
    personality = as_object(place, section.get("personality"), "user.personality")
    structured = as_object(place, personality.get("structured"), "user.personality.structured")
    name = _name(place, profile.get("name"), "user.profile.name")
    identity = _name(place, value.get("user_hash"), "user_hash") or name
    return User(identity or None, tag_lines(profile, structured)), name


def _name(place: Place, value: Any, name: str) -> str:
    """A name or hash; numbers are accepted, absent and null are empty."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return " ".join(as_text(place, value, name).split())


def _example(place: Place, item: Any, name: str) -> Example:
    if not isinstance(item, dict):
        place.fail(f"must be an object, got {kind(item)}")
    answer = as_text(place, item.get("continuation", ""), "continuation").strip()
    prefix = as_text(place, item.get("continuation_prefix") or "", "continuation_prefix").strip()
    turns: list[Turn] = []
    question = ""
    for number, entry in enumerate(as_list(place, item.get("context"), "context")):
        turn, asked = _turn(place, entry, number, name)
        if turn.text:
            turns.append(turn)
            question = turn.text if asked else ""
    flaw = answer_flaw(answer)
    if flaw is None and turns and turns[-1].role == "assistant":
        flaw = NOT_ASKED
    if question:  # a questionnaire: what is asked belongs to the query, which no ablation removes
        turns.pop()
    query = "\n".join(part for part in (question, prefix) if part)
    return Example(tuple(turns), answer, query, _time(item.get("timestamp")), flaw)


def _turn(place: Place, entry: Any, number: int, name: str) -> tuple[Turn, bool]:
    if not isinstance(entry, dict):
        place.fail(f"context[{number}] must be an object, got {kind(entry)}")
    source, content = entry.get("source"), entry.get("content", "")
    if not (isinstance(source, str) and source.isascii()):  # most are: names of fields are put together for errors only
        source = _name(place, source, f"context[{number}].source")
    if not (isinstance(content, str) and content.isascii()):
        content = as_text(place, content, f"context[{number}].content")
    role, asked = _speaker(source, name)
    return Turn(role, content.strip()), asked


@lru_cache(maxsize=1024)
def _speaker(source: str, name: str) -> tuple[str, bool]:
    """The role of a source in the rows of the person called `name`, and whether it is a questionnaire."""
    speaker = " ".join(source.split())
    own = speaker.lower() == "user" or (name != "" and speaker == name)
    return "assistant" if own else "user", speaker.lower() == "questionnaire"


def _time(value: Any) -> float | None:
    """Seconds since 1970; None where absent or unreadable. A time without a zone counts as UTC."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e15 else None
    if not isinstance(value, str):
        return None
    moment = _moment(value.strip())
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    for pattern in _DATES:
        try:
            return datetime.strptime(text, pattern)
        except ValueError:
            continue
    return None
