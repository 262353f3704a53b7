"""What the command line says of itself, as files: `python -m kctl.reference` writes kctl/COMMANDS.md, a chapter for
every verb, and kctl/words.json, from which shells complete. A test compares both with the command line.

Read from the verbs' own signatures and docstrings, which no version of typer or click can change.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import typer
from typer.models import ArgumentInfo, OptionInfo

from kctl.cli import app

FOLDER = Path(__file__).parent
COMMANDS, WORDS = FOLDER / "COMMANDS.md", FOLDER / "words.json"
_TOP = """# Commands

Written by `python -m kctl.reference` from the command line itself; `kctl VERB --help` says the same. What comes out on
stdout and what on stderr, and the exit codes, are in [the README](../README.md).
"""
_EXAMPLES = "\b\nExamples:\n"
"""Opens the last paragraph of a verb's docstring; the backspace keeps its lines apart in --help."""
_VALUES = {str: "TEXT", int: "N", float: "X", Path: "PATH"}
"""What stands for a value whose option names nothing better."""

Verb = Callable[..., None]


def verbs(group: typer.Typer, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Verb]]:
    """(words, function) of every verb, those of a group after those beside it."""
    for name, part in _parts(group):
        yield from verbs(part, (*names, name)) if isinstance(part, typer.Typer) else [((*names, name), part)]


def _parts(group: typer.Typer) -> Iterator[tuple[str, Verb | typer.Typer]]:
    for command in group.registered_commands:
        if command.hidden:  # another name of a verb that is listed
            continue
        assert command.callback is not None
        yield command.name or command.callback.__name__, command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield str(inner.name), inner.typer_instance


def told(verb: Verb) -> tuple[str, list[str]]:
    """What a verb's docstring says, and the command lines at its end."""
    words, _, lines = (inspect.getdoc(verb) or "").partition(_EXAMPLES)
    return words.strip(), [line.strip() for line in lines.splitlines() if line.strip()]


def commands_page() -> str:
    """COMMANDS.md."""
    return "\n".join([_TOP, *(_chapter(names, verb) for names, verb in verbs(app()))])


def words() -> str:
    """words.json."""
    return json.dumps(_tree(app(), ""), indent=1) + "\n"


def _tree(group: typer.Typer, said: str) -> dict[str, Any]:
    found: dict[str, Any] = {"help": said, "verbs": {}, "options": []}
    for name, part in _parts(group):
        if isinstance(part, typer.Typer):
            found["verbs"][name] = _tree(part, str(part.info.help))
        else:
            found["verbs"][name] = {"help": told(part)[0].partition("\n\n")[0], **parameters(part)}
    return found


def parameters(verb: Verb) -> dict[str, list[dict[str, Any]]]:
    """`arguments` and `options` of a verb, each with help, value (empty: a flag), choices, whether it repeats; of an
    argument also whether it may be left out."""
    found: dict[str, list[dict[str, Any]]] = {"arguments": [], "options": []}
    for name, parameter in inspect.signature(verb).parameters.items():
        kind, info = get_args(parameter.annotation)
        members = [one for one in get_args(kind) or (kind,) if one is not NoneType]
        inner = get_args(members[0])[0] if get_args(members[0]) else members[0]
        choices = [str(one.value) for one in inner] if isinstance(inner, type) and issubclass(inner, Enum) else []
        said = {
            "help": info.help or "",
            "value": "" if inner is bool else info.metavar or "|".join(choices) or _VALUES[inner],
            "choices": choices,
            "many": "list[" in str(kind),
        }
        if isinstance(info, OptionInfo):
            # In an Annotated the first name stands where a default would.
            names = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
            found["options"].append({"names": names or [f"--{name.replace('_', '-')}"], **said})
        elif isinstance(info, ArgumentInfo):
            found["arguments"].append({**said, "optional": parameter.default is not inspect.Parameter.empty})
    return found


def _chapter(names: tuple[str, ...], verb: Verb) -> str:
    said, lines = told(verb)
    found = parameters(verb)
    usage = " ".join(("kctl", *names, *map(_usage, found["arguments"])))
    parts = [f"## {usage}\n", f"{said}\n"]
    if lines:
        parts.append("```bash\n" + "\n".join(lines) + "\n```\n")
    rows = [(one["value"], one["help"]) for one in found["arguments"]]
    rows += [(f"{', '.join(one['names'])} {one['value']}".strip(), one["help"]) for one in found["options"]]
    if rows:
        listed = "\n".join("| `{}` | {} |".format(*(text.replace("|", "\\|") for text in row)) for row in rows)
        parts.append(f"| | |\n|---|---|\n{listed}\n")
    return "\n".join(parts)


def _usage(argument: dict[str, Any]) -> str:
    dots = "..." if argument["many"] and not argument["value"].endswith("...") else ""
    return f"[{argument['value']}{dots}]" if argument["optional"] else f"{argument['value']}{dots}"


if __name__ == "__main__":
    COMMANDS.write_text(commands_page(), encoding="utf-8")
    WORDS.write_text(words(), encoding="utf-8")
