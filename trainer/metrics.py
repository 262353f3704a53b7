"""What a run says while it trains: one line a step for people, the same as JSON in metrics.jsonl, wandb if asked."""

import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from trainer.atomic import named_errors, write_text
from trainer.pod.outcome import finite
from trainer.schema.contract import RunFolder
from trainer.schema.ops import Wandb


def say(text: str) -> None:
    """One line on the log, at once."""
    print(text, flush=True)


def memory_gib(device: torch.device) -> float:
    """Peak so far: reserved GPU memory, or resident memory of this process, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


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

    def take(self, steps_left: int) -> tuple[float, float]:
        """(tokens per second, seconds left) since the last call."""
        seconds = max(1e-9, self._seconds)
        rate, eta = self._tokens / seconds, steps_left * seconds / max(1, self._steps)
        self._seconds, self._tokens, self._steps = 0.0, 0, 0
        return rate, eta


class Metrics:
    """Rank 0's metrics.jsonl and, if asked for, wandb. RunsFolderError where the volume takes no more."""

    def __init__(self, folder: RunFolder, run: str, done: int, wandb: Wandb | None) -> None:
        self._folder = folder
        self._open(done)
        self._wandb = _start_wandb(folder, run, wandb) if wandb else None

    def _open(self, done: int) -> None:
        _drop_after(self._folder.metrics, done)
        samples = _drop_after(self._folder.samples, done)
        self._before = {record["item"]: record["answer"] for record in samples if record.get("step") == 0}
        with named_errors(self._folder.root):
            self._file = self._folder.metrics.open("a", encoding="utf-8")
            self._samples = self._folder.samples.open("a", encoding="utf-8")

    def go_back(self, done: int) -> None:
        """Drop the records of steps after `done`, which are trained again. wandb keeps the first it saw of a step."""
        with named_errors(self._folder.root):
            self._file.close()
            self._samples.close()
        self._open(done)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; numbers that are none become null."""
        clean = finite(record)
        with named_errors(self._folder.metrics):
            self._file.write(json.dumps(clean) + "\n")
            self._file.flush()
        if self._wandb is not None:
            self._wandb.log(clean, step=int(record["step"]))

    def write_samples(self, records: list[dict[str, Any]]) -> None:
        """Append answers to samples.jsonl, each beside the one to the same prompt before training."""
        with named_errors(self._folder.samples):
            for record in records:
                before = self._before.setdefault(record["item"], record["answer"])
                line = {**record, "before": before} if record["step"] else record
                self._samples.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._samples.flush()

    def close(self) -> None:
        """Flush and end."""
        with named_errors(self._folder.root):
            self._file.close()
            self._samples.close()
        if self._wandb is not None:
            self._wandb.finish()


def _drop_after(path: Path, done: int) -> list[dict[str, Any]]:
    # A resumed run trains the steps after its checkpoint again: their first records go. A run from the start
    # (nothing was saved) writes everything anew. Returns what is kept.
    if not path.exists():
        return []
    kept, records = [], []
    for line in path.read_text(encoding="utf-8").split("\n"):  # an answer may hold other line ends
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
        if done and record.get("step", 0) <= done:
            kept.append(line + "\n")
            records.append(record)
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
