"""kctl compare A B: how runs went, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from kctl import console
from kctl.errors import UsageError
from kctl.run.find import several
from kctl.run.folder import Results, folder_of, read_results
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, Output, OutputOption
from kctl.run.page import loss_of, span, structured

_EVALUATIONS = 12
"""Most lines of the table of held-out losses; -o json has all."""


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Two runs or more, each named as for other verbs.")
    ],
    answers: Annotated[
        bool, typer.Option("--answers", help="Also what each said last to the fixed prompts of the evaluations.")
    ] = False,
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show losses, speed, memory and held-out losses step by step of two runs or more; -o json has everything.

    \b
    Examples:
      kctl compare lora_di3 lora_di5
      kctl compare @production @latest --answers
    """
    if len(runs) < 2:
        raise UsageError(f"compare needs two runs, got {runs[0]!r} alone: kctl report shows one")
    backend, jobs = several(runs, local, namespace, context)
    names = [job["metadata"]["name"] for job in jobs]
    with backend.folders(jobs) as folders:
        results = [read_results(folder_of(folders, name), name) for name in names]
    if output is Output.NAME:
        console.data("\n".join(names))
        return
    if output is not Output.TABLE:
        console.data(structured([asdict(one) for one in results], output))
        return
    rows = [(label, *(text(one) for one in results)) for label, text in _ROWS]
    rows += [(f"held out @{step}", *(_held(one, step) for one in results)) for step in _steps(results)]
    console.table(("", *names), rows)
    if answers:
        console.data("\n".join(_answers(results)))
    if any(one.train.get("data") != results[0].train.get("data") for one in results):
        console.say("their train.data differs: held-out losses are not of the same items")
    console.say(f"what they were told otherwise: kctl adapters diff {names[0]} {names[1]}")


def _best(name: str) -> Callable[[Results], str]:
    return lambda one: loss_of(one.best[1].get(name)) if one.best else "-"


def _last(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


_ROWS: list[tuple[str, Callable[[Results], str]]] = [
    ("step", lambda one: f"{one.step}/{one.steps}" if one.steps else "-"),
    ("loss", lambda one: loss_of(one.loss)),
    ("before", lambda one: loss_of(one.evaluations.get(0, {}).get("loss"))),
    ("best", _best("loss")),
    ("best, answer", _best("answer_loss")),
    ("best at step", lambda one: str(one.best[0]) if one.best else "-"),
    ("time", lambda one: "-" if one.seconds is None else span(one.seconds)),
    ("tokens/s", lambda one: _last(one.tokens_per_s, "{:,.0f}")),
    ("memory", lambda one: _last(one.mem_gib, "{:.1f} GiB")),
]
"""Word -> what stands in a run's column. `best` is the published adapter's, held out."""


def _steps(results: Sequence[Results]) -> list[int]:
    """Steps at which any of them was evaluated, spread evenly where there are many; first and last stay."""
    steps = sorted({step for one in results for step in one.evaluations})
    if len(steps) <= _EVALUATIONS:
        return steps
    return [steps[round(place * (len(steps) - 1) / (_EVALUATIONS - 1))] for place in range(_EVALUATIONS)]


def _held(one: Results, step: int) -> str:
    return loss_of(one.evaluations.get(step, {}).get("loss"))


def _answers(results: Sequence[Results]) -> list[str]:
    """Every fixed prompt that all have answered: what was really said, then what each said."""
    lines: list[str] = []
    said = [{answer.item: answer for answer in one.answers} for one in results]
    width = max(len(one.run) for one in results)
    for item, first in said[0].items():
        if all(item in each for each in said):
            lines += ["", f"item {item}", f"  {'reference':<{width}}  {_line(first.reference)}"]
            each = zip(results, said, strict=True)
            lines += [f"  {one.run:<{width}}  {_line(by[item].answer)}  (step {by[item].step})" for one, by in each]
    return lines or ["no fixed prompt was answered by all of them"]


def _line(text: str) -> str:
    return console.printable(" ".join(text.split()))
