"""kctl explain RUN: why a run waits, is slow, starts again or failed: cause, evidence, next command."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from kctl import console
from kctl.run.find import gone, located
from kctl.run.options import (
    ContextOption,
    LocalOption,
    NamespaceOption,
    Output,
    OutputOption,
    RunArgument,
    where_flags,
)
from kctl.run.page import resume, structured

if TYPE_CHECKING:
    from kctl.backends.facts import Facts
    from kctl.explain.cause import Found


def explain(
    run: RunArgument,
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Say why a run waits, is slow, starts again or failed, what shows it, and what to type next.

    \b
    Examples:
      kctl explain lora_di3
      kctl explain @latest -o json
    """
    from kctl.explain.table import explained

    backend, name = located(run, local, namespace, context)
    facts = backend.facts(name)
    if facts is None:
        raise gone(name)
    flags = where_flags(local, namespace, context)
    causes = explained(facts, flags, resume(facts.view, flags)) or (_unknown(facts, local, flags),)
    if output is Output.NAME:
        console.data("\n".join(one.name for one in causes))
    elif output is not Output.TABLE:
        console.data(structured(_value(facts, causes), output))
    else:
        console.data(_page(facts, causes))


def _unknown(facts: "Facts", local: bool, flags: str) -> "Found":
    """What is said where the table has nothing: what status says, and where to look."""
    from kctl.explain.cause import Found

    view, namespace = facts.view, facts.job["metadata"].get("namespace", "default")
    said = view.sentence or "nothing in its job, pods, events and log says why"
    look = f"kctl logs {view.run}{flags}" if local else f"{facts.kubectl} -n {namespace} describe pytorchjob {view.run}"
    return Found("unknown-cause", said, (), look)


def _value(facts: "Facts", causes: "tuple[Found, ...]") -> dict[str, object]:
    view = facts.view
    said = {"run": view.run, "phase": str(view.phase), "code": view.code, "sentence": view.sentence}
    return {**said, "causes": [asdict(one) for one in causes], "unseen": list(facts.unseen)}


def _page(facts: "Facts", causes: "tuple[Found, ...]") -> str:
    view, first = facts.view, causes[0]
    rows = [("Run:", f"{view.run} is {view.phase}"), ("Cause:", f"{first.sentence} [{first.name}]")]
    evidence = [*first.evidence]
    said = view.sentence.partition(" waits: ")[2] or view.sentence
    if said and not any(said in one for one in (first.sentence, *evidence)):
        evidence.insert(0, f"status: {said}")
    rows += [("Evidence:" if number == 0 else "", one) for number, one in enumerate(evidence)]
    rows.append(("Next:", first.next))
    for other in causes[1:]:
        rows += [("Also:", f"{other.sentence} [{other.name}]"), ("", other.next)]
    rows += [("Not seen:", one) for one in facts.unseen]
    return "\n".join(f"{name:<9} {console.printable(value)}".rstrip() for name, value in rows)
