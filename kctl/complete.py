"""What a shell may offer for the word under its cursor: `kctl __complete WORDS...`, one `VALUE<TAB>HELP` a line.

Must answer within 0.15 s: verbs and options come from words.json, which kctl.reference makes of the command line
itself; names of runs from kctl.run.names, of configs from their folders. Nothing is asked of a cluster.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kctl.config.resolve import config_folders, shipped_configs
from kctl.run import names
from trainer.schema.contract import TAG_PREFIX
from trainer.schema.redaction import known_in

WORDS = Path(__file__).with_name("words.json")

_STEM = re.compile(r"[\w.+-]+")
"""A file's name that a shell takes as it is."""

Candidate = tuple[str, str]
"""(value, help in a few words, or nothing)"""
Verb = dict[str, Any]
"""One verb of words.json: help, verbs below it, arguments and options; or one of those."""


def main(words: list[str]) -> int:
    """Print what may stand where the last of `words` stands; nothing where a file may, or where one cannot know."""
    try:
        tree = json.loads(WORDS.read_bytes())
        lines = [f"{value}\t{' '.join(told.split())}" for value, told in candidates(tree, words or [""])]
    except (OSError, ValueError):  # half installed: the shell offers files
        return 1
    os.write(1, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
    return 0


def candidates(tree: Verb, words: list[str]) -> list[Candidate]:
    """What begins as the last word does, in the order to show it; no credential that stands where a name belongs."""
    *before, last = words
    start, last = _after_equals(before, last)
    verb, given = _verb(tree, before)
    options = {name: option for option in verb.get("options", ()) for name in option["names"]}
    if given[-1:] and options.get(given[-1], {}).get("value"):
        found = _values(options[given[-1]], given)
    elif start or given[-1:] == ["="]:
        found = iter(())
    elif last.startswith("-"):
        fresh = ((name, option["help"]) for name, option in options.items() if option["many"] or name not in given)
        found = itertools.chain(fresh, [("--help", "What it takes, with examples.")])
    elif "verbs" in verb:
        found = ((name, inner["help"]) for name, inner in verb["verbs"].items())
    else:
        found = _arguments(verb, options, given)
    matching = ((start + value, told) for value, told in found if value.startswith(last))
    return [one for one in dict.fromkeys(matching) if not any(map(known_in, one))]


def _after_equals(before: list[str], last: str) -> tuple[str, str]:
    """`--output=js` as `--output js`, whether the shell splits words there (bash) or not; also how answers begin."""
    if last == "=" or before[-1:] == ["="]:
        if before[-1:] == ["="]:
            before.pop()
        return "", "" if last == "=" else last
    name, equals, value = last.partition("=")
    if equals and name.startswith("--"):
        before.append(name)
        return f"{name}=", value
    return "", last


def _verb(tree: Verb, before: list[str]) -> tuple[Verb, list[str]]:
    """The verb that `before` names, and the words after it."""
    verb, given = tree, before
    while "verbs" in verb:
        at = next((place for place, word in enumerate(given) if word in verb["verbs"]), None)
        if at is None:
            break
        verb, given = verb["verbs"][given[at]], given[at + 1 :]
    return verb, given


def _arguments(verb: Verb, options: dict[str, Any], given: list[str]) -> Iterator[Candidate]:
    """For the next positional argument."""
    takes = [bool(options.get(word, {}).get("value")) for word in given]
    plain = [word for word, after in zip(given, [False, *takes], strict=False) if not after and word[:1] != "-"]
    arguments = verb.get("arguments", [])
    if arguments and (len(plain) < len(arguments) or arguments[-1]["many"]):
        argument = arguments[min(len(plain), len(arguments) - 1)]
        yield from ((value, told) for value, told in _named(argument, given) if value not in plain)


def _named(argument: Verb, given: list[str]) -> Iterator[Candidate]:
    """What an argument or an option may be, by its choices or by what stands for it in the help."""
    name = argument["value"].rstrip(".")
    if argument["choices"]:
        yield from ((choice, "") for choice in argument["choices"])
    elif name == "RUN":
        yield from ((run, "") for run in _runs(given))
        yield "@latest", "the newest run"
    elif name.startswith("VOLUME"):
        yield from (("models", "base models, one folder each"), ("data", "training data"))
    elif name == "CONFIG":
        stems = (path.stem for folder in config_folders() for path in sorted(folder.glob("*.yaml")))
        yield from ((stem, "") for stem in stems if _STEM.fullmatch(stem))


def _values(option: Verb, given: list[str]) -> Iterator[Candidate]:
    if "--namespace" in option["names"]:
        yield from ((namespace, f"of {context}" if context else "") for namespace, context in names.places())
    elif "--context" in option["names"]:
        yield from ((context, "") for _, context in names.places() if context)
    elif option["value"].startswith("PATH="):
        schema = json.loads((shipped_configs() / "run.schema.json").read_bytes())
        yield from ((f"{path}=", told) for path, told in _fields(schema, schema, ""))
    else:
        yield from _named(option, given)


def _fields(schema: Verb, part: Verb, path: str) -> Iterator[Candidate]:
    """Every field of a run config that is no section, with its description."""
    for name, field in part.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        kinds = [field, *field.get("anyOf", ()), *field.get("allOf", ())]
        refs = [kind["$ref"].rpartition("/")[2] for kind in kinds if "$ref" in kind]
        sections = [schema["$defs"][ref] for ref in refs if "properties" in schema["$defs"][ref]]
        for section in sections:
            yield from _fields(schema, section, here)
        if not sections:
            yield here, field.get("description", "")


def _runs(given: list[str]) -> list[str]:
    """The runs that a verb may mean, newest first, and their tags."""
    if "--local" in given:
        from kctl.backends.local.store import state_root

        folders = [path for path in (state_root() / "jobs").glob("[!.]*") if path.is_dir()]
        newest = sorted(folders, key=lambda path: -path.stat().st_mtime)
        tags = (f"@{tag}" for path in newest for tag in _tags(path / "job.json"))
        return [one for one in (*(path.name for path in newest), *tags) if names.is_name(one)]
    after = dict(itertools.pairwise(given))
    return names.on_clusters(after.get("-n", after.get("--namespace")), after.get("--context"))


def _tags(job: Path) -> list[str]:
    """Of a local run; none where its file is just being made."""
    try:
        notes = json.loads(job.read_bytes())["metadata"].get("annotations") or {}
    except (OSError, ValueError, LookupError):
        return []
    return [key.removeprefix(TAG_PREFIX) for key in notes if key.startswith(TAG_PREFIX)]
