"""A rank that waits for ever, noticed by a thread of its own: every rank's stacks are written down, the rank ends.

A step, an evaluation or a checkpoint may take TIMES as long as usual, and at least ops.hang_after; the first of each
has an hour. What ranks write lies on the node, beside their last words; the launcher takes it to the run's logs
(trainer.pod.node).
"""

import faulthandler
import os
import re
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from trainer.pod import outcome
from trainer.schema import contract
from trainer.schema.contract import ExitCode
from trainer.schema.messages import as_rank

TIMES = 20
"""What happens often may take this many times the median of the last WINDOW times."""
WINDOW = 32
FIRST = 3600.0
"""Seconds for what was not seen before: loading and compiling, the first checkpoint on a slow volume."""
POLL = 1.0
OTHERS = 3.0
"""Seconds that a rank which noticed leaves the others to notice too, and then those that it had to wake to answer."""
_STACKS = re.compile(r"rank-(\d+)-pid-(\d+)\.stacks")


def allowed(durations: list[float], least: float) -> float:
    """Seconds that something may take which took `durations` before."""
    return max(least, TIMES * statistics.median(durations)) if durations else max(least, FIRST)


@dataclass(frozen=True)
class Doing:
    """What the rank is at, and how many seconds it may take."""

    name: str
    seconds: float


class HangWatch:
    """Told what the rank is at; looks on once started."""

    def __init__(self, least: float = 0.0) -> None:
        self._least = least
        self._lasted: dict[str, deque[float]] = {}
        self._doing = Doing("the start", FIRST)

    @contextmanager
    def during(self, kind: str, step: int) -> Iterator[None]:
        """Something that all ranks do together: a step, an evaluation, a checkpoint."""
        lasted = self._lasted.setdefault(kind, deque(maxlen=WINDOW))
        self._doing, began = Doing(f"{kind} {step}", allowed(list(lasted), self._least)), time.monotonic()
        yield
        lasted.append(time.monotonic() - began)
        self._doing = Doing(f"what follows {kind} {step}", FIRST)

    def start(self, rank: int) -> None:
        """Look on from now on, where a launcher listens. SIGUSR1 writes this process's stacks from now on."""
        told = os.environ.get(contract.ENV_OUTCOMES)
        if not told:
            return
        folder = Path(told) / outcome.HANG
        folder.mkdir(exist_ok=True)
        self._stacks = (folder / f"rank-{rank}-pid-{os.getpid()}.stacks").open("w", encoding="utf-8")
        faulthandler.register(signal.SIGUSR1, file=self._stacks)
        threading.Thread(target=self._look_on, args=(rank, folder), name="hang-watch", daemon=True).start()

    def _look_on(self, rank: int, folder: Path) -> None:
        doing, waited = self._doing, 0.0
        while waited <= doing.seconds:
            asleep = time.monotonic()
            time.sleep(POLL)
            # A process that was frozen itself (a suspended machine) has not waited for others meanwhile.
            waited += min(time.monotonic() - asleep, 2 * POLL)
            if self._doing is not doing:
                doing, waited = self._doing, 0.0
        self._end(rank, folder, f"rank {rank}: {doing.name} has not ended after {waited:.0f} s")

    def _end(self, rank: int, folder: Path, what: str) -> NoReturn:
        try:
            print(as_rank(f"{what}: stacks and last collectives go to the run's logs\n", rank), end="", flush=True)
            self._stacks.write(f"{what}\n")
            self._stacks.flush()
            faulthandler.dump_traceback(self._stacks)
            (folder / f"rank-{rank}.collectives.json").write_bytes(collectives())
            time.sleep(OTHERS)
            ask_the_silent(folder)
            time.sleep(OTHERS)
            if not (
                folder.parent / f"rank-{rank}.json"
            ).exists():  # a run that is done, or has said why not, hangs in vain
                outcome.report(ExitCode.HANGING, f"{what}; stacks of all ranks are in the run's logs folder")
        finally:
            os._exit(1)  # whatever happens here, and without a word to the main thread, which hangs


NOT_WATCHED = HangWatch()
"""For loops that nobody waits for."""


def ask_the_silent(folder: Path) -> None:
    """Make ranks of this node that wrote nothing write their stacks: those are stopped, or hold Python's lock."""
    for path in folder.glob("*.stacks"):
        found = _STACKS.fullmatch(path.name)
        if found and path.stat().st_size == 0:
            with suppress(ProcessLookupError):
                os.kill(int(found[2]), signal.SIGUSR1)
                os.kill(int(found[2]), signal.SIGCONT)


def collectives() -> bytes:
    """What torch's flight recorder knows of this rank's last collectives, as JSON."""
    backend = torch._C._distributed_c10d
    dump = backend._dump_nccl_trace_json if torch.cuda.is_available() else backend._dump_fr_trace_json
    found: bytes = dump(True, False)
    return found
