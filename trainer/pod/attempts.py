"""attempts.json: what became of each attempt, and what that means for the next: allowed, later, how much time is left.

A series begins at zero after every permanent end, since only a person submits again after one.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from trainer.atomic import write_json
from trainer.errors import RunsFolderError
from trainer.pod.ownership import Ownership
from trainer.schema.contract import ExitCode, RunFolder

MAX_WITHOUT_CHECKPOINT = 3
"""Counted attempts that may end without a new checkpoint."""
FIRST_BACKOFF, LONGEST_BACKOFF = 10.0, 320.0
"""Seconds; doubled with every counted attempt."""
UNCOUNTED = frozenset({ExitCode.PREEMPTED, ExitCode.OWNERSHIP_LOST, ExitCode.RENDEZVOUS})
"""Ends that are not the run's fault."""


@dataclass(frozen=True)
class Attempt:
    """One life of the run's pods. `code` is None while it lasts, and for ever if it was killed without a word."""

    attempt: int
    pod_uid: str
    started_step: int
    """The newest checkpoint's step when it began."""
    code: int | None = None
    sentence: str = ""
    seconds: float = 0.0

    @property
    def counted(self) -> bool:
        """True where the end may be the run's fault."""
        return self.code not in UNCOUNTED


def read_attempts(folder: RunFolder) -> list[Attempt]:
    """All attempts so far, oldest first. RunsFolderError if the file is there and makes no sense."""
    try:
        return [_sound(Attempt(**entry)) for entry in json.loads(folder.attempts.read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunsFolderError(
            f"{folder.attempts}: cannot be read: {error}; remove that file and submit again"
        ) from None


def _sound(one: Attempt) -> Attempt:
    whole = isinstance(one.attempt, int) and isinstance(one.started_step, int) and isinstance(one.code, int | None)
    if not whole or not isinstance(one.seconds, float | int) or not isinstance(one.sentence, str):
        raise ValueError(f"no attempt: {str(one)[:80]}")
    return one


def write_attempts(folder: RunFolder, attempts: Sequence[Attempt], ownership: Ownership) -> None:
    """All attempts, oldest first. OwnershipLost where the folder is another's by now."""
    write_json(folder.attempts, [asdict(attempt) for attempt in attempts], ownership.check)


def newest_checkpoint(folder: RunFolder) -> int:
    """The highest step among complete checkpoints; 0 where there is none."""
    names = [path.name for path in folder.checkpoints.iterdir()] if folder.checkpoints.is_dir() else []
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))), default=0)


def series(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those since the last permanent end."""
    closed = [index for index, one in enumerate(attempts) if one.code is not None and 0 < one.code < 128]
    return list(attempts[closed[-1] + 1 :]) if closed else list(attempts)


def used_up(attempts: Sequence[Attempt], newest: int) -> bool:
    """True where the series' counted attempts brought no checkpoint beyond `newest` three times."""
    fruitless = [one for one in series(attempts) if one.counted and one.started_step >= newest]
    return len(fruitless) >= MAX_WITHOUT_CHECKPOINT


def backoff(attempts: Sequence[Attempt]) -> float:
    """Seconds to sleep before the next attempt: 10, 20, 40 ... 320; none at first and after a preemption."""
    streak: list[Attempt] = []
    for one in series(attempts):
        streak = [] if one.code == ExitCode.PREEMPTED else [*streak, one]
    if not streak:
        return 0.0
    counted = sum(one.counted for one in streak)
    return min(FIRST_BACKOFF * 2.0 ** min(max(counted, 1) - 1, 10), LONGEST_BACKOFF)


def spent(attempts: Sequence[Attempt]) -> float:
    """Seconds that the series has used of max_hours."""
    return sum(one.seconds for one in series(attempts))


def with_end(attempts: Sequence[Attempt], code: int, sentence: str, seconds: float) -> list[Attempt]:
    """The same, the last attempt ended."""
    return [*attempts[:-1], replace(attempts[-1], code=code, sentence=sentence, seconds=round(seconds, 1))]
