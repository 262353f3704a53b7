"""How a pod's attempt ended: what each rank wrote about itself, and the one outcome that follows from all of it.

The ranks write (report, success, progress), the launcher reads and decides. torchrun's own exit code says only
whether anything went wrong. All files are node-local.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.atomic import read_object, write_json
from trainer.errors import TrainerError
from trainer.schema.contract import ENV_OUTCOMES, ExitCode
from trainer.schema.redaction import redacted

PREEMPTED, TIME_LIMIT = "preempted", "time-limit"
"""Why the launcher asks the ranks to stop; the content of the stop file."""

HANG = "hang"
"""Folder beside the ranks' last words with what hanging ranks left: stacks, and their last collectives."""

SILENT = "a rank ended without a word (killed? out of host memory?); its last lines are in the log"


@dataclass(frozen=True)
class Outcome:
    """The end of an attempt: exit code, one sentence, and what the run came to."""

    code: ExitCode
    sentence: str
    """Of whoever failed, in which a library's error may stand: written to the volume without credentials."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What rank 0 said at success."""
    progress: dict[str, Any] = field(default_factory=dict)
    """step, steps, loss, eval_loss as rank 0 last wrote them."""
    attempt: int | None = None
    """Number of the attempt that ended so; None where none began."""


@dataclass(frozen=True)
class Ending:
    """What the launcher itself saw: torchrun's exit status and why it had asked for a stop."""

    status: int
    asked: str | None = None
    node: int = 0
    nodes: int = 1
    unjoined: bool = False
    """torchrun gave up waiting for the other nodes."""
    dry: bool = False
    """A dry run, whose exit status says it all."""


def report(code: int, sentence: str) -> None:
    """A rank's last word, for the launcher of its node; without a launcher nothing is written."""
    _tell(f"rank-{os.environ.get('RANK', '0')}.json", {"code": int(code), "sentence": sentence})


def success(summary: Mapping[str, Any]) -> None:
    """Rank 0 is done and everything is published; `summary` goes into result.json."""
    _tell("rank-0.json", {"code": 0, "sentence": "the run is done", "summary": finite(dict(summary))})


def progress(step: int, steps: int, loss: float, eval_loss: float | None) -> None:
    """Where rank 0 is, for the termination message."""
    _tell("progress.json", finite({"step": step, "steps": steps, "loss": loss, "eval_loss": eval_loss}))


def _tell(name: str, value: Mapping[str, Any]) -> None:
    folder = os.environ.get(ENV_OUTCOMES)
    if folder:
        write_json(Path(folder) / name, value)


def finite(value: Any) -> Any:
    """The same with null for what JSON cannot say: NaN and infinities."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_error(error: TrainerError) -> Outcome:
    """The outcome that the launcher's own error stands for."""
    return Outcome(error.code, redacted(str(error)))


def read_outcomes(folder: Path) -> tuple[dict[int, Outcome], dict[str, Any]]:
    """What the ranks of this node wrote: last words by rank, and rank 0's progress (empty if none)."""
    words = {}
    for path in folder.glob("rank-*.json"):
        rank, value = path.stem.removeprefix("rank-"), read_object(path)
        code = value.get("code")
        if rank.isdigit() and isinstance(code, int):
            known = ExitCode(code) if code in list(ExitCode) else ExitCode.UNKNOWN
            summary = value.get("summary")
            words[int(rank)] = Outcome(
                known,
                redacted(str(value.get("sentence", ""))),
                summary if isinstance(summary, dict) else {},
            )
    return words, finite(read_object(folder / "progress.json"))


def decide(words: Mapping[int, Outcome], ending: Ending, trained: bool) -> Outcome:
    """The attempt's outcome on this node. `trained`: at least one step was made.

    First match counts: lost ownership, a permanent code of the lowest rank, success, a stop, ranks that hang, a
    device's error, an unknown error, peers that never joined, a peer that vanished, silence.
    """
    by_rank = [words[rank] for rank in sorted(words)]
    lost = next((word for word in by_rank if word.code is ExitCode.OWNERSHIP_LOST), None)
    permanent = next((word for word in by_rank if word.code.permanent), None)
    done = _done(words, ending)
    return lost or permanent or done or _stopped(by_rank, ending) or _failed(by_rank, ending, trained)


def _done(words: Mapping[int, Outcome], ending: Ending) -> Outcome | None:
    first = words.get(0)
    if ending.node == 0 and not ending.dry:
        # Everything is published by then: a crash while the ranks take leave changes nothing.
        return first if first is not None and first.code is ExitCode.SUCCEEDED else None
    if ending.status == 0 and ending.asked is None and not words:
        return Outcome(ExitCode.SUCCEEDED, "the ranks of this node are done")
    return None


def _stopped(by_rank: list[Outcome], ending: Ending) -> Outcome | None:
    saved = next((word for word in by_rank if word.code is ExitCode.PREEMPTED), None)
    if ending.asked == TIME_LIMIT:
        sentence = "max_hours is over and the ranks ended before they could save: raise it and submit again to go on"
        return Outcome(ExitCode.TIME_LIMIT, sentence + " from the newest checkpoint")
    if saved is None and ending.asked == PREEMPTED:
        return Outcome(ExitCode.PREEMPTED, "told to stop before it could save; continues from the newest checkpoint")
    return saved


def _failed(by_rank: list[Outcome], ending: Ending, trained: bool) -> Outcome:
    for code in (ExitCode.HANGING, ExitCode.DEVICE, ExitCode.UNKNOWN):
        for word in by_rank:
            if word.code is code:
                return word
    gone = [word for word in by_rank if word.code in (ExitCode.PEER_LOST, ExitCode.RENDEZVOUS)]
    if ending.nodes > 1:
        if not trained and (ending.unjoined or any(word.code is ExitCode.RENDEZVOUS for word in gone)):
            return Outcome(ExitCode.RENDEZVOUS, f"not all {ending.nodes} nodes joined; starting again")
        if gone:
            return Outcome(ExitCode.PEER_LOST, f"another node is gone: {gone[0].sentence}")
    # On one node a lost peer is a rank of this pod that could not even say why.
    return Outcome(ExitCode.UNKNOWN, SILENT)
