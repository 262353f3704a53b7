"""What the demo learnt, on one screen: held-out loss before and after, and sample answers side by side.

Reads the run's folder (result.json, samples.jsonl) and nothing else. Ends with exit code 1 where the loss of the
answers' own tokens fell by less than MIN_FALL: the tags around an answer are learnt at once and prove nothing.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

MIN_FALL = 0.08
SHOWN_ANSWERS = 3
LOSSES = {
    "answer_loss": "the answer's own tokens",
    "frame_loss": "tags and end token",
    "loss": "all labels",
}


class CompareError(Exception):
    """There is nothing to compare; the message says why and what to do."""


@dataclass(frozen=True)
class Answer:
    """One held-out line: the last line that the model saw, and the three ways it goes on."""

    said: str
    base: str
    adapter: str
    reference: str


def newest_run(runs: Path, name: str) -> Path:
    """The folder of the run of config `name` that succeeded last."""
    results = [path for path in runs.glob(f"{name}-*/result.json") if _object(path).get("phase") == "Succeeded"]
    if not results:
        raise CompareError(
            f"{runs}: no {name} run has succeeded here; make demo trains one, kctl list --local lists all"
        )
    return max(results, key=lambda path: path.stat().st_mtime).parent


def read_losses(run: Path) -> dict[str, tuple[float, float]]:
    """Each of LOSSES -> held-out nats per token with the base model and with the best adapter."""
    result = _object(run / "result.json")
    losses = {}
    for key in LOSSES:
        before, after = (_object_in(result, when).get(key) for when in ("before", "after"))
        if not isinstance(before, int | float) or not isinstance(after, int | float):
            raise CompareError(f"{run / 'result.json'}: before.{key} or after.{key} is missing: nothing was held out")
        losses[key] = (float(before), float(after))
    return losses


def read_answers(run: Path) -> list[Answer]:
    """The first answers of samples.jsonl, of step 0 (the base model) beside those of the best adapter's step."""
    path = run / "samples.jsonl"
    best = _object(run / "result.json").get("best_step")
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        base = {record["item"]: record for record in records if record["step"] == 0}
        tuned = {record["item"]: record for record in records if record["step"] == best}
        return [_answer(record, tuned[item]) for item, record in base.items() if item in tuned][:SHOWN_ANSWERS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompareError(f"{path}: cannot be read ({error!r}); submit the demo again") from None


def _answer(base: dict[str, Any], tuned: dict[str, Any]) -> Answer:
    lines = base["prompt_tail"].splitlines() or [""]
    turns = [line.partition(": ")[2] for line in lines if line.startswith(("User: ", "Assistant: "))]
    said = turns[-1] if turns else f"... {lines[0]}"  # the tail of a prompt may begin inside a long turn
    return Answer(_one_line(said), *(_one_line(text) for text in (base["answer"], tuned["answer"], base["reference"])))


def show(run: Path, console: "Console") -> float:
    """Print the comparison; returns how far the answers' own loss fell, as a share of what it was."""
    from rich.table import Table

    losses = read_losses(run)
    table = Table(title="Held-out loss, nats per token (plays that training never saw)", title_justify="left")
    table.add_column("of")
    for heading in ("base model", "with adapter", "change"):
        table.add_column(heading, justify="right")
    for key, label in LOSSES.items():
        before, after = losses[key]
        table.add_row(label, f"{before:.3f}", f"{after:.3f}", f"{after / before - 1:+.1%}")
    console.print(table)
    for answer in read_answers(run):
        beside = Table(title=f"> {answer.said}", title_justify="left", caption_justify="left", expand=True)
        beside.caption = f"the play: {answer.reference}"
        beside.add_column("base model", ratio=1)
        beside.add_column("with adapter", ratio=1)
        beside.add_row(answer.base, answer.adapter)
        console.print()
        console.print(beside)
    before, after = losses["answer_loss"]
    return 1 - after / before


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompareError(f"{path}: cannot be read ({error}); submit the demo again") from None
    return value if isinstance(value, dict) else {}


def _object_in(value: dict[str, Any], key: str) -> dict[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _one_line(text: str) -> str:
    text = text.strip().removeprefix("[ANSWER]").removesuffix("[/ANSWER]")
    return " ".join(text.split()) or "(nothing)"


def main() -> int:
    """`python -m demo.compare [RUN FOLDER]`; without one, the demo run that succeeded last."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    try:
        root = Path(os.environ.get("KCTL_LOCAL") or ".kctl")
        run = Path(sys.argv[1]) if len(sys.argv) > 1 else newest_run(root / "runs", "demo")
        pulled = Path("adapters") / run.name
        adapter = pulled if pulled.is_dir() else run / "adapter"
        fell = show(run, console)
    except CompareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print()
    console.print(
        f'The adapter: {adapter}; in Python: PeftModel.from_pretrained(base_model, "{adapter}")', soft_wrap=True
    )
    if fell < MIN_FALL:
        print(f"error: the answers' own loss fell by {fell:.1%}, at least {MIN_FALL:.0%} expected", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
