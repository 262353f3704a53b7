"""What a run says while it trains: one line a step for people, the same as JSON in metrics.jsonl, and the report.

wandb and TensorBoard's event files only if asked for.
"""

import contextlib
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from trainer.atomic import named_errors, write_text
from trainer.event_file import EventFile
from trainer.pod.outcome import finite
from trainer.report.process import Reporter
from trainer.schema.contract import RunFolder
from trainer.schema.ops import Ops, Wandb


def say(text: str) -> None:
    """One line on the log, at once, and in one piece: two threads may speak."""
    print(f"{text}\n", end="", flush=True)


def device_state(device: torch.device) -> dict[str, float]:
    """`mem_gib`, the peak so far: reserved GPU memory, or resident memory of this process; of a GPU also `gpu_util`,
    the share of the last moments in which it did anything, in percent, where the driver tells."""
    if device.type != "cuda":
        return {"mem_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    state = {"mem_gib": torch.cuda.max_memory_reserved(device) / 2**30}
    with contextlib.suppress(RuntimeError, _nvml_error()):
        state["gpu_util"] = float(torch.cuda.utilization(device))
    return state


def _nvml_error() -> type[Exception]:
    import pynvml

    error: type[Exception] = pynvml.NVMLError
    return error


class Pace:
    """Tokens per second and seconds to go, over the steps since the last line; only steps are timed."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._seconds = 0.0
        self._tokens = 0
        self._steps = 0

    def begin(self) -> None:
        """A step starts."""
        self._begun = time.monotonic()

    def end(self, tokens: int) -> None:
        """It ended, with `tokens` real tokens over all ranks."""
        self._seconds += time.monotonic() - self._begun
        self._tokens += tokens
        self._steps += 1

    def take(self, steps_left: int) -> dict[str, float]:
        """`tokens_per_s` since the last call, and by that `eta_s`, seconds left."""
        seconds = max(1e-9, self._seconds)
        rate, eta = self._tokens / seconds, steps_left * seconds / max(1, self._steps)
        self._seconds, self._tokens, self._steps = 0.0, 0, 0
        return {"tokens_per_s": rate, "eta_s": eta}


class Metrics:
    """Rank 0's metrics.jsonl, samples.jsonl and report; and what `ops` asks for. RunsFolderError where the volume
    takes no more."""

    def __init__(self, folder: RunFolder, run: str, done: int, ops: Ops) -> None:
        self._folder, self._ops = folder, ops
        self._open(done)
        self._reporter = Reporter(folder.root)
        self._wandb = _start_wandb(folder, run, ops.wandb) if ops.wandb else None

    def _open(self, done: int) -> None:
        _drop_after(self._folder.metrics, done)
        samples = _drop_after(self._folder.samples, done)
        self._before = {record["item"]: record["answer"] for record in samples if record.get("step") == 0}
        with named_errors(self._folder.root):
            self._file = self._folder.metrics.open("a", encoding="utf-8")
            self._samples = self._folder.samples.open("a", encoding="utf-8")
        self._tensorboard = EventFile(self._folder, done) if self._ops.tensorboard else None

    def go_back(self, done: int) -> None:
        """Drop the records of steps after `done`, which are trained again. wandb keeps the first it saw of a step."""
        with named_errors(self._folder.root):
            self._file.close()
            self._samples.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._open(done)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; numbers that are none become null."""
        clean = finite(record)
        with named_errors(self._folder.metrics):
            self._file.write(json.dumps(clean) + "\n")
            self._file.flush()
        if self._wandb is not None:
            self._wandb.log(clean, step=int(record["step"]))
        if self._tensorboard is not None:
            self._tensorboard.write(clean)
        self._reporter.step()

    def write_samples(self, records: list[dict[str, Any]]) -> None:
        """Append an evaluation's answers, if any, each beside the one from before training; it is over then."""
        with named_errors(self._folder.samples):
            for record in records:
                before = self._before.setdefault(record["item"], record["answer"])
                line = {**record, "before": before} if record["step"] else record
                self._samples.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._samples.flush()
        self._reporter.evaluated()

    def close(self) -> None:
        """Flush and end."""
        with named_errors(self._folder.root):
            self._file.close()
            self._samples.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._reporter.close()


def _drop_after(path: Path, done: int) -> list[dict[str, Any]]:
    # A resumed run trains the steps after its checkpoint again: their first records go. A run from the start
    # (nothing was saved) writes everything anew. Returns what is kept.
    if not path.exists():
        return []
    kept, records = [], []
    for line in path.read_bytes().split(b"\n"):  # an answer may hold other line ends
        try:
            record = json.loads(line)
            if done and record.get("step", 0) <= done:
                kept.append(line.decode() + "\n")
                records.append(record)
        except (
            ValueError,
            TypeError,
            AttributeError,
        ):  # where a run was killed, or its disk full: within a character too
            continue
    write_text(path, "".join(kept))
    return records


def _start_wandb(folder: RunFolder, run: str, wanted: Wandb) -> Any:
    import wandb

    # The pod's log is the launcher's: wandb neither copies it nor writes into it, and looks for no repository.
    settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False)
    say(f"wandb {wanted.mode}: project {wanted.project}, run {run}, files in {folder.root / 'wandb'}")
    return wandb.init(
        project=wanted.project,
        mode=wanted.mode,
        name=run,
        id=run,
        resume="allow" if wanted.mode == "online" else None,
        dir=str(folder.root),
        settings=settings,
    )
