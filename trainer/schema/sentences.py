"""What pydantic found, as one sentence with field, problem, value and remedy. Nothing below `env` is ever shown."""

import json
import re
from typing import Any

from pydantic import ValidationError

from trainer.schema.redaction import without_known

_BOUNDS = {
    "greater_than_equal": ">= {ge}",
    "greater_than": "> {gt}",
    "less_than_equal": "<= {le}",
    "less_than": "< {lt}",
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a number",
    "bool": "true or false",
    "dict": "a map: write {NAME: VALUE}",
}
"""Start of pydantic's kind of error -> what the field wants."""

_PLAIN = re.compile(r"[A-Za-z0-9][\w./-]*")
_ENV_WANTS = "must be text, or {secret: NAME, key: KEY} of a Secret in the namespace"
_ENV_IS_MAP = "must be a map: write {NAME: text}, or {NAME: {secret: NAME, key: KEY}}"
_TAGS = (("text",), ("reference",))


def sentence(found: Any, prefix: str = "") -> str:
    """One of ValidationError.errors() as `field: problem`."""
    place = location(found)
    field = ".".join((prefix, *place) if prefix else place)
    env = _env_at(place)
    problem = _problem(found, field) if env is None else _private_problem(found, len(place) - env)
    return f"{field + ': ' if field else ''}{problem}"


def first_of(error: ValidationError) -> tuple[Any, str]:
    """What was found first, and how many more there are as the end of the sentence."""
    more = error.error_count() - 1
    return error.errors(include_url=False)[0], f" (and {more} more)" if more else ""


def location(found: Any) -> tuple[str, ...]:
    """Where it stands in the file: without pydantic's names for the kinds of an environment value."""
    place = tuple(str(part) for part in found["loc"])
    env = _env_at(place)
    if env is not None and place[env + 2 : env + 3] in _TAGS:
        return place[: env + 2] + place[env + 3 :]
    return place


def _env_at(place: tuple[str, ...]) -> int | None:
    # A profile has env at the top, a run config below cluster.
    return next((at for at, start in enumerate([("env",), ("cluster", "env")]) if place[: at + 1] == start), None)


def shown(value: Any) -> str:
    """A scalar as JSON, cut; of a list or a map only that it is one, for who knows what is in it."""
    if isinstance(value, dict | list | tuple):
        return "a map" if isinstance(value, dict) else "a list"
    text = without_known(json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= 80 else text[:77] + "..."


def written(value: Any) -> str:
    """A scalar as one writes it inside [] or {}."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else shown(value)


def _problem(found: Any, field: str) -> str:
    kind, given, context = found["type"], found.get("input"), found.get("ctx", {})
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind].format(**context)}, got {given}"
    if kind == "missing":
        return "is missing"
    if kind == "unknown_key":
        return str(context["section"].unknown(context["key"], field))
    if kind in ("refused", "bool_as_number", "no_section"):
        return str(found["msg"])
    if kind == "value_error":
        return str(found["msg"]).removeprefix("Value error, ")
    return f"{_wanted(found, given, context)}, got {shown(given)}" if kind != "tuple_type" else _no_list(given)


def _no_list(given: Any) -> str:
    if given is None or isinstance(given, dict):
        return f"must be a list, got {shown(given)}"
    return f"must be a list: write [{written(given)}]"


def _wanted(found: Any, given: Any, context: Any) -> str:
    kind = found["type"]
    if kind == "string_type":
        return "must be text: put it in quotes" if isinstance(given, int | float) else "must be text"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters"
    if kind == "too_long":
        return f"must have at most {context['max_length']} entries"
    words = next((words for start, words in _WORDS.items() if kind.startswith(start)), None)
    return f"must be {words}" if words else str(found["msg"]).replace("Input should", "must")


def _private_problem(found: Any, depth: int) -> str:
    # Our own sentences name variables only; what they say of a value follows `, got`.
    kind = found["type"]
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(found["msg"]).removeprefix("Value error, ").partition(", got ")[0]
    if kind == "unknown_key":
        return f"has an unknown key, known keys: {', '.join(found['ctx']['section'].model_fields)}"
    if depth == 1:
        return _ENV_IS_MAP
    return _ENV_WANTS if depth == 2 else "must be text: the name of a Secret or of its key"
