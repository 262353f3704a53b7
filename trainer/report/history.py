"""What a run's folder says so far. Whatever is missing, half written or no sense is left out: never an error."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.atomic import read_object
from trainer.dataset.report import Report
from trainer.errors import RunsFolderError
from trainer.pod.attempts import Attempt, read_attempts
from trainer.report.lines import Line
from trainer.schema.contract import RunFolder
from trainer.schema.messages import number, parse_attempt_line, parse_step_line

DRAWN = ("loss", "lr", "grad_norm", "tokens_per_s", "mem_gib", "gpu_util")
"""Of a step's record in metrics.jsonl."""
TAIL_BYTES, TAIL_LINES = 16 * 1024, 25
"""Of the newest attempt's log: how it ended."""
HEAD_BYTES, HEAD_LINES = 32 * 1024, 60
"""How it began: data, versions, devices, parameters, batches."""


@dataclass(frozen=True)
class Answers:
    """What was said to one fixed prompt; `said`: (step, answer), in the order of the steps."""

    item: str
    prompt_tail: str
    reference: str
    said: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class History:
    """All that the report shows."""

    run: str
    train: dict[str, Any]
    """config.json's section, spelled out."""
    result: dict[str, Any]
    """result.json, {} before the end."""
    step: int
    steps: int
    skipped: int
    """Steps whose loss was no number."""
    seconds: float
    """Of training, evaluations included; 0 where no step was logged yet."""
    drawn: dict[str, Line]
    """By the names of DRAWN; those that were never measured are absent."""
    evaluations: dict[str, Line]
    """Held-out losses by name, `loss` first; step 0 is before the first update."""
    evaluation_seconds: Line
    answers: tuple[Answers, ...]
    data: Report | None
    attempts: tuple[Attempt, ...]
    logs: tuple[str, ...]
    """Names below logs/."""
    began: tuple[str, ...]
    ended: tuple[str, ...]
    """Lines of node 0's newest log."""

    @property
    def best_step(self) -> int | None:
        """Where the held-out loss was lowest after the first update; that step's adapter is the published one."""
        held = self.evaluations.get("loss", Line())
        after = [(value, step) for step, value in zip(held.steps, held.values, strict=True) if step > 0]
        return int(min(after)[1]) if after else None


def read_history(folder: RunFolder) -> History:
    """Everything at once, in one pass over each file."""
    config = read_object(folder.config)
    train, run = config.get("train"), config.get("run")
    names = (path.name for path in folder.logs.glob("attempt-*.log"))
    logs = sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    own = [name for name in logs if name.endswith("-node-0.log")]
    began, ended = _log_ends(folder.logs / own[-1]) if own else ((), ())
    return History(
        run=run if isinstance(run, str) else folder.root.name,
        train=train if isinstance(train, dict) else {},
        result=read_object(folder.result),
        **_metrics(folder.metrics),
        answers=_answers(folder.samples),
        data=_data(folder.report),
        attempts=_attempts(folder),
        logs=tuple(logs),
        began=began,
        ended=ended,
    )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects with a step, line by line; the last line may still be in the writing."""
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict) and number(record.get("step")) is not None:
                    yield record
    except OSError:
        return


def _metrics(path: Path) -> dict[str, Any]:
    drawn: dict[str, Line] = {}
    evaluations: dict[str, Line] = {"loss": Line()}
    cost, step, steps, seconds, skipped = Line(), 0.0, 0.0, 0.0, 0
    for record in _records(path):
        at = float(record["step"])
        step, steps = max(step, at), number(record.get("steps")) or steps
        judged = record.get("evaluation")
        if isinstance(judged, dict):
            _add(evaluations, judged, at)
            cost.add(at, number(record.get("seconds")) or 0.0)
        else:
            seconds = number(record.get("seconds")) or seconds
            skipped += "loss" in record and record["loss"] is None
            _add(drawn, {name: record[name] for name in DRAWN if name in record}, at)
    late = sum(value for at, value in zip(cost.steps, cost.values, strict=True) if at >= step)
    return {
        "step": int(step),
        "steps": int(steps),
        "skipped": skipped,
        "seconds": seconds + late if seconds else 0.0,
        "drawn": drawn,
        "evaluations": {name: line for name, line in evaluations.items() if len(line)},
        "evaluation_seconds": cost,
    }


def _add(lines: dict[str, Line], values: dict[str, Any], step: float) -> None:
    for name, value in values.items():
        found = number(value)
        line = lines.setdefault(name, Line()) if found is not None else None
        if line is not None and found is not None and (not len(line) or line.steps[-1] < step):
            line.add(step, found)


def _answers(path: Path) -> tuple[Answers, ...]:
    found: dict[str, Answers] = {}
    for record in _records(path):
        item, answer = record.get("item"), record.get("answer")
        if isinstance(item, str) and isinstance(answer, str):
            first = found.get(item) or Answers(item, _text(record, "prompt_tail"), _text(record, "reference"), ())
            said = (*first.said, (int(record["step"]), answer))
            found[item] = Answers(first.item, first.prompt_tail, first.reference, said)
    return tuple(found.values())


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


def _data(path: Path) -> Report | None:
    try:
        report = Report.from_json(path.read_text(encoding="utf-8"))
        report.lines()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    counts = report.lengths
    return report if all(isinstance(count, int) and count >= 0 for count in counts.values()) else None


def _attempts(folder: RunFolder) -> tuple[Attempt, ...]:
    try:
        return tuple(read_attempts(folder))
    except RunsFolderError:
        return ()


def _log_ends(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stands before the first step, and the last lines."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES).decode("utf-8", errors="replace")
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = file.read().decode("utf-8", errors="replace")
    except OSError:
        return (), ()
    began: list[str] = []
    for line in head.splitlines()[:HEAD_LINES]:
        if parse_step_line(line) is not None or re.match(r"(evaluation|checkpoint) step=", line):
            break
        if parse_attempt_line(line) is None:
            began.append(line)
    return tuple(began), tuple(tail.splitlines()[-TAIL_LINES:])
