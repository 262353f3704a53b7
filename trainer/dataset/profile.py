"""A user's profile and personality scores as lines of tags: `[USER_AGE=41]`, `[DIM_BIG_FIVE_OPENNESS=3.67]`.

Nothing that has a value is lost, whatever shape a sibling data set gives it; prose about a scale is not a score.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_FIRST = ("name", "age", "gender")
_NOT_SHOWN = ("dimensions", "unstructured")
_PROSE = ("explanation", "description")


def tag_lines(profile: dict[str, Any], structured: dict[str, Any]) -> tuple[str, ...]:
    """Name, age and gender first, then the scores, then every other key of the profile in its order."""
    rest = [key for key in profile if key not in _FIRST and key not in _NOT_SHOWN]
    lines = [line for key in _FIRST if profile.get(key) for line in _tags(f"USER_{key}", profile[key])]
    lines += [line for key, value in structured.items() for line in _tags(f"DIM_{key}", value)]
    lines += [line for key in rest for line in _tags(f"USER_{key}", profile[key])]
    return tuple(lines)


def _tags(name: str, value: Any) -> Iterator[str]:
    """Depth is bounded by the JSON parser's own limit."""
    if isinstance(value, dict):
        if "score" in value:
            yield from _tags(name, value["score"])
            return
        for key, inner in value.items():
            if key not in _PROSE:
                yield from _tags(name if key == "dimensions" else f"{name}_{key}", inner)
        return
    text = ", ".join(_scalar(part) for part in value) if isinstance(value, list) else _scalar(value)
    if text:
        yield f"[{_label(name)}={text}]"


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.encode(errors="replace").decode().split())
    return json.dumps(value, ensure_ascii=False)


def _label(name: str) -> str:
    """Upper case; `Scale.Dim`, spaces and what would end a tag become underscores."""
    return re.sub(r"[\s.=\[\]]+", "_", name.encode(errors="replace").decode().strip()).upper()
