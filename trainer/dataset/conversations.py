"""Formats messages and prompt_completion: one JSON object a line, each one item.

An optional `user_hash` groups lines by user; without it every line stands for itself.
"""

from pathlib import Path
from typing import Any

from trainer.dataset.items import NO_PROMPT, Example, Row, Turn, User, answer_flaw, build_row
from trainer.dataset.source import Place, as_text, json_lines, kind
from trainer.schema.redaction import redacted

_ROLES = ("system", "user", "assistant", "tool")


def read_messages(path: Path) -> list[Row]:
    """All lines of {"messages": [{role, content}]}. DataError where the file or a line is not of this format."""
    return [build_row(*parse_messages(place, value), number) for number, (place, value) in enumerate(json_lines(path))]


def read_prompt_completion(path: Path) -> list[Row]:
    """All lines of {"prompt": text or [{role, content}], "completion": text}. DataError as read_messages."""
    return [
        build_row(*parse_prompt_completion(place, value), number)
        for number, (place, value) in enumerate(json_lines(path))
    ]


def parse_messages(place: Place, value: Any) -> tuple[User, list[Example]]:
    """One line's user and item: the last assistant turn is the answer, what follows it is cut. DataError."""
    line = _object(place, value)
    return _user(place, line), [_conversation(place, line)]


def parse_prompt_completion(place: Place, value: Any) -> tuple[User, list[Example]]:
    """One line's user and item; a prompt that is a text is one user turn. DataError."""
    line = _object(place, value)
    return _user(place, line), [_completion(place, line)]


def _object(place: Place, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        place.fail(f"a line must be an object, got {kind(value)}")
    return value


def _user(place: Place, value: dict[str, Any]) -> User:
    given = value.get("user_hash")
    return User(None if given is None else as_text(place, given, "user_hash") or None)


def _conversation(place: Place, value: dict[str, Any]) -> Example:
    turns = _turns(place, value.get("messages"), "messages")
    last = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    if last < 0:
        return Example(tuple(turns), "", flaw="no assistant turn")
    trained = [turn.text for turn in turns[: last + 1] if turn.role == "assistant"]
    return _checked(turns[:last], turns[last].text, trained)


def _completion(place: Place, value: dict[str, Any]) -> Example:
    prompt = value.get("prompt")
    if isinstance(prompt, str):
        text = as_text(place, prompt, "prompt")
        turns = [Turn("user", text)] if text.strip() else []
    else:
        turns = _turns(place, prompt, "prompt")
    answer = as_text(place, value.get("completion"), "completion").strip()
    return _checked(turns, answer, [answer])


def _checked(turns: list[Turn], answer: str, trained: list[str]) -> Example:
    flaw = answer_flaw(*trained)
    if flaw is None and not turns:
        flaw = NO_PROMPT
    return Example(tuple(turns), answer, flaw=flaw)


def _turns(place: Place, value: Any, name: str) -> list[Turn]:
    if not isinstance(value, list):
        place.fail(f"{name} must be a list of {{role, content}}, got {kind(value)}")
    turns = []
    for number, entry in enumerate(value):
        if not isinstance(entry, dict):
            place.fail(f"{name}[{number}] must be an object, got {kind(entry)}")
        role = entry.get("role")
        if role not in _ROLES:
            place.fail(f"{name}[{number}].role must be one of {', '.join(_ROLES)}, got {redacted(str(role))[:40]!r}")
        text = as_text(place, entry.get("content"), f"{name}[{number}].content")
        # Spaces around a trained text would be taught; most templates trim them anyway.
        turns.append(Turn(role, text.strip() if role == "assistant" else text))
    return turns
