"""A cause: how it is seen in the facts, the sentence that says it, and what to type next."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kctl.backends.facts import Facts, Said
from trainer.schema.redaction import redacted

LONGEST = 4000
"""Characters of what somebody says that are looked at."""
SHOWN = 300
"""Characters of it that a sentence repeats."""


@dataclass(frozen=True)
class Seen:
    """That a cause is there: what fills its sentences, and what shows it."""

    fields: Mapping[str, str] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()


Predicate = Callable[[Facts], Seen | None]


@dataclass(frozen=True)
class Cause:
    """`sentence` and `next` are filled with the fields of what was seen, and with those that `found` adds to them."""

    name: str
    """For programs; never changes."""
    seen: Predicate
    sentence: str
    next: str
    """A command, or what to do where none does it."""


@dataclass(frozen=True)
class Found:
    """A cause as it is told of one run."""

    name: str
    sentence: str
    evidence: tuple[str, ...]
    next: str


def found(cause: Cause, facts: Facts, flags: str, resume: str) -> Found | None:
    """The cause in words, where the facts show it; `flags`: what a kctl command needs to mean the same place; `resume`:
    what takes the run up again."""
    seen = cause.seen(facts)
    if seen is None:
        return None
    view, namespace = facts.view, facts.job["metadata"].get("namespace", "default")
    fields = {"run": view.run, "config": view.config or "CONFIG", "phase": str(view.phase)}
    fields |= {"flags": flags, "resume": resume, "cluster": facts.kubectl, "kubectl": f"{facts.kubectl} -n {namespace}"}
    fields |= seen.fields
    told = redacted(cause.sentence.format(**fields))
    return Found(cause.name, told, tuple(map(redacted, seen.evidence)), redacted(cause.next.format(**fields)))


def says(who: Callable[[Facts], Iterable[Said]], pattern: str) -> Predicate:
    """The first of `who` whose words match: the fields are the pattern's groups, `about`, `name` and `words`."""
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)

    def seen(facts: Facts) -> Seen | None:
        for said in who(facts):
            match = compiled.search(said.words[:LONGEST])
            if match is not None:
                named = {name: (value or "").strip().rstrip(".") for name, value in match.groupdict().items()}
                words = redacted(" ".join(said.words.split()))[:SHOWN]
                fields = {"about": said.about, "name": said.about.rpartition(" ")[2], "words": words}
                return Seen(fields | named, (said.line,))
        return None

    return seen


def either(*predicates: Predicate) -> Predicate:
    """What the first of them sees."""

    def seen(facts: Facts) -> Seen | None:
        return next((one for predicate in predicates if (one := predicate(facts)) is not None), None)

    return seen
