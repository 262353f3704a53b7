"""Sample answers as the report shows them: base model beside adapter beside reference, and how they changed."""

from dataclasses import dataclass

from trainer.report.history import Answers

MOST_ANSWERS, MOST_LETTERS = 12, 2000
TAIL = 400
"""Letters of a prompt in samples.jsonl: one that has as many was longer."""


@dataclass(frozen=True)
class Prompt:
    """One prompt's answers."""

    item: str
    prompt_tail: str
    reference: str
    base: str
    """Before the first update; "" where that was not asked."""
    step: int | None
    """Of the adapter whose answer is `adapter`: the best, else the newest."""
    adapter: str
    over_time: list[tuple[str, str]]
    """(steps, answer), neighbours that are equal joined."""
    left_out: int


def shown(answers: Answers, best: int | None) -> Prompt:
    """What the page shows of one prompt."""
    said = dict(answers.said)
    step = best if best in said else max((step for step in said if step > 0), default=None)
    groups: list[tuple[int, int, str]] = []
    for at, text in answers.said:
        begun = groups.pop()[0] if groups and groups[-1][2] == text else at
        groups.append((begun, at, text))
    kept = sorted({place * (len(groups) - 1) // (MOST_ANSWERS - 1) for place in range(MOST_ANSWERS)})
    return Prompt(
        item=cut(answers.item),
        prompt_tail=f"{'... ' if len(answers.prompt_tail) >= TAIL else ''}{cut(answers.prompt_tail)}",
        reference=cut(answers.reference),
        base=cut(said.get(0, "")),
        step=step,
        adapter=cut(said[step]) if step is not None else "",
        over_time=[(span(*groups[place][:2]), cut(groups[place][2])) for place in kept],
        left_out=len(groups) - len(kept),
    )


def span(first: int, last: int) -> str:
    """Steps between which an answer stayed the same."""
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def cut(text: str) -> str:
    """At most MOST_LETTERS of it."""
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + " ..."
