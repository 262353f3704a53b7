"""A run's answers to a test file: `[torchrun ...] python -m trainer.generate RUN --test FILE --out FILE`.

FILE of --test lies below the data volume, that of --out below RUN/generated on the runs volume (absolute paths are
taken as they are). The output is the test file with `continuations` in every item, null for each failed sample; it
appears by rename, with NAME.summary.json beside it. What is answered is kept in a hidden folder until then, so that
a killed generation goes on, with any number of ranks.
"""

import argparse
import hashlib
import json
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.after.answering import load_answering
from trainer.after.finished import Finished, command, finished
from trainer.after.sampling import answers
from trainer.atomic import named_errors, read_object, write_json, write_text
from trainer.dataset.leaderboard import Asked, asked, reply, with_continuations
from trainer.dataset.tokenizer import load_tokenizer
from trainer.distributed import Ranks, end_process, leave
from trainer.errors import RunsFolderError
from trainer.metrics import say
from trainer.schema import contract
from trainer.schema.loading import validated
from trainer.schema.sampling import Sampling
from trainer.startup import quiet_libraries

SEQUENCES = {"cuda": 128, "cpu": 16}
"""Answers that are drawn at once, halved where they do not fit into the GPU's memory."""
_OF = "of.json"
"""In the unfinished folder: what its answers depend on."""
EMPTY, ENDLESS = "empty", "did not end"


@dataclass(frozen=True)
class Task:
    """What one rank needs; the same on every rank but for `ranks`."""

    run: Finished
    test: Path
    out: Path
    sampling: Sampling
    items: list[Asked]
    ranks: Ranks

    @property
    def part(self) -> Path:
        """The unfinished folder."""
        return self.out.with_name(f".{self.out.name}.part")

    @property
    def summary(self) -> Path:
        return self.out.with_name(f"{self.out.stem}.summary.json")

    def of(self) -> dict[str, Any]:
        """What the answers depend on: adapter, every prompt, sampling."""
        prompts = hashlib.sha256(json.dumps([(item.key, item.prompt) for item in self.items]).encode())
        return {"adapter": self.run.digest, "prompts": prompts.hexdigest(), "sampling": self.sampling.model_dump()}


def generate(task: Task) -> None:
    """Answer what is not answered yet, on all ranks; rank 0 writes the output.

    RunsFolderError where the output belongs to something else or cannot be written.
    """
    ranks = task.ranks
    if task.out.exists():
        if read_object(task.summary).get("of") != task.of():
            raise RunsFolderError(f"{task.out}: exists, of another adapter, test file or sampling: move it away first")
        if ranks.first:
            say(f"already there: {task.out}")
        return
    if ranks.first:
        _begin(task)
    _together(ranks)
    there = dict(_kept(task.part))
    left = [number for number, item in enumerate(task.items) if item.prompt and number not in there]
    if ranks.first:
        say(f"{len(task.items)} items, {len(there)} answered before, {len(left)} to answer on {ranks.world} ranks")
    _together(ranks)  # what is written from here on must not change what is left
    left.sort(key=lambda number: -len(task.items[number].prompt))  # alike in length: little padding
    _answer(task, left[ranks.rank :: ranks.world])
    _together(ranks)
    if ranks.first:
        _finish(task)


def _begin(task: Task) -> None:
    with named_errors(task.part):
        task.part.mkdir(parents=True, exist_ok=True)
    if read_object(task.part / _OF) not in ({}, task.of()):
        raise RunsFolderError(
            f"{task.part}: holds answers of another adapter, test file or sampling: go on with those, delete the "
            "folder, or name another --out"
        )
    write_json(task.part / _OF, task.of())


def _kept(part: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(item, record) of every line that was written whole."""
    for path in sorted(part.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            yield record["item"], record


def _answer(task: Task, mine: Sequence[int]) -> None:
    if not mine:
        return
    ranks, start, done = task.ranks, time.monotonic(), 0
    model = load_answering(task.run, ranks.device)
    tokenizer = load_tokenizer(task.run.base)
    size = max(1, SEQUENCES[ranks.device.type] // task.sampling.samples)
    path = task.part / f"{uuid.uuid4().hex}.jsonl"  # of this process alone: a torn last line stays the last
    while done < len(mine):
        batch = mine[done : done + size]
        try:
            said = answers(model, [task.items[number] for number in batch], task.sampling, ranks.device)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            size //= 2
            continue
        records = [_record(task, number, tokenizer, drawn) for number, drawn in zip(batch, said, strict=True)]
        _append(path, records)
        done += len(batch)
        if ranks.first:
            pace = done / (time.monotonic() - start)
            left = (len(mine) - done) / pace
            where = f"rank 0 of {ranks.world}"
            say(f"answered {done} of {len(mine)} items ({where}) items_per_s={pace:.2f} eta_s={left:.0f}")


def _record(task: Task, number: int, tokenizer: Any, drawn: list[list[int]]) -> dict[str, Any]:
    said, failed = [], []
    for tokens in drawn:
        ended = tokens[-1:] == [task.items[number].end]
        text = tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=False)
        said.append(reply(text, ended))
        if said[-1] is None:
            failed.append(EMPTY if ended else ENDLESS)
    return {"item": number, "continuations": said, "failed": failed}


def _append(path: Path, records: Sequence[dict[str, Any]]) -> None:
    with named_errors(path), path.open("ab") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        file.flush()
        os.fsync(file.fileno())


def _finish(task: Task) -> None:
    there, samples = dict(_kept(task.part)), task.sampling.samples
    failed: Counter[str] = Counter()
    continuations: dict[int, list[str | None]] = {}
    for number, item in enumerate(task.items):
        if item.flaw is not None:
            failed[item.flaw] += samples
            continuations[number] = [None] * samples
        else:
            failed.update(there[number]["failed"])
            continuations[number] = there[number]["continuations"]
    total = len(task.items) * samples
    summary = {"run": task.run.file.run, "items": len(task.items), "samples": total, "failed": dict(failed)}
    write_json(task.summary, {**summary, "of": task.of()})
    write_text(task.out, with_continuations(task.test, continuations))
    shutil.rmtree(task.part, ignore_errors=True)
    why = "".join(f"; {count} {reason}" for reason, count in failed.most_common())
    say(f"done: {task.out}: {total - failed.total()} of {total} samples{why}")


def join() -> Ranks:
    """The ranks that torchrun started, or this process alone. They only wait for each other: gloo is enough."""
    cuda, local = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(local)
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if "RANK" not in os.environ:
        return Ranks(0, 1, device)
    dist.init_process_group("gloo", timeout=timedelta(days=1))
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def _together(ranks: Ranks) -> None:
    if ranks.world > 1:
        dist.barrier()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.generate", description="Answer a test file.")
    parser.add_argument("run", help="a folder of the runs volume (TRAINER_RUNS)")
    parser.add_argument("--test", required=True, help="below the data volume (TRAINER_DATA)")
    parser.add_argument("--out", required=True, help="below RUN/generated")
    parser.add_argument("--last", action="store_true", help="the newest adapter instead of the best")
    parser.add_argument("--sampling", default="{}", help="JSON: fields of trainer.schema.sampling.Sampling")
    chosen = parser.parse_args()

    def story() -> None:
        quiet_libraries(int(os.environ.get("RANK", "0")))
        sampling = validated(Sampling, json.loads(chosen.sampling), "--sampling")
        run = finished(chosen.run, chosen.last)
        data = contract.mounted(contract.ENV_DATA)
        test = data / chosen.test
        items = asked(run.file.train.data, data, run.base, test)
        generate(Task(run, test, run.folder.generated / chosen.out, sampling, items, join()))
        leave()

    return command(story)


if __name__ == "__main__":
    end_process(main())
