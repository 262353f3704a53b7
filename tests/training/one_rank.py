"""A run on one rank inside the test's own process: what happens between two steps can be arranged, and looked at."""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deepspeed.utils import groups

from tests.training.tiny import SMALL_VOCABULARY, small_tokenizer, tiny_dense
from tests.training.world import WORDS, write_pairs
from trainer.checkpoints import Progress
from trainer.dataset.prepare import prepare
from trainer.distributed import Ranks, join, leave
from trainer.lora_state import owned
from trainer.pod.ownership import Owner
from trainer.run import Run
from trainer.schema import contract
from trainer.schema.config import TrainConfig
from trainer.schema.identity import run_name
from trainer.schema.loading import RunFile
from trainer.state import save, settle
from trainer.train import setup, train_step

SAVED = (2, 4, 6)
"""Steps of a bench's checkpoints."""
OWNER = Owner(pod_uid="one-rank", attempt=1, counter=0, host="here", pid=1, started=1)


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process as the only rank; its environment is as it was afterwards."""
    before = dict(os.environ)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    try:
        yield join()
        leave()
        groups._release_process_group_references()  # else the next one in this process would find this one's
    finally:
        os.environ.clear()
        os.environ.update(before)


def write_inputs(root: Path) -> None:
    """A tiny model, and two prepared data sets."""
    for name, count in (("data", 24), ("other-data", 23)):
        write_pairs(root / f"{name}.jsonl", WORDS, count)
    tokenizer = small_tokenizer(root / "tokenizer", [root / "data.jsonl"])
    for name, seed in (("dense", 0), ("other", 1)):
        tiny_dense(root / name, seed=seed, tokenizer=tokenizer, vocabulary=SMALL_VOCABULARY)
    for name in ("data", "other-data"):
        data = config(data=name).data
        prepare(data, root, root / "dense", root / f"prepared-{name}", lambda text: None)


def config(data: str = "data", **changes: Any) -> TrainConfig:
    """A small run that would save when it is told to and not before."""
    value = {
        "model": {"path": "dense"},
        "data": {"path": f"{data}.jsonl", "format": "prompt_completion", "validation": {"ratio": 0.2}},
        "lora": {"rank": 2},
        "optim": {"lr": 1e-2},
        "global_batch_size": 2,
        "precision": "fp32",
        "ops": {"checkpoint": {"every": "1000 steps", "keep": 3}, "generate": {"items": 0}},
    }
    return TrainConfig.model_validate(value | changes)


def begin(root: Path, ranks: Ranks, train: TrainConfig) -> Run:
    """The run, set up; its folder is below root/runs and belongs to this process and its peers."""
    file = RunFile(run_name("tiny", train), train)
    folder = contract.RunFolder(root / "runs" / file.run)
    if ranks.first:
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.owner.write_text(json.dumps(asdict(OWNER)))
    os.environ |= {
        contract.ENV_PREPARED: str(root / "prepared-data"),
        contract.ENV_MODELS: str(root),
        contract.ENV_RUN_FOLDER: str(folder.root),
        contract.ENV_OWNER: OWNER.token,
    }
    return setup(file, ranks)


def steps(run: Run, progress: Progress, count: int) -> Progress:
    """So many updates further."""
    for _ in range(count):
        train_step(run, progress.step, False)
        progress = replace(progress, step=progress.step + 1)
    return progress


def fingerprint(run: Run) -> str:
    """sha256 of all that a checkpoint must bring back: the adapters, masters, moments."""
    found = hashlib.sha256()
    for _, parameter in run.parameters:
        found.update(parameter.detach().numpy().tobytes())
    for fragment in owned(run.engine):
        for part, value in sorted(fragment.values.items()):
            found.update(part.encode() + value.numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Bench:
    """Two runs on the same inputs with checkpoints after SAVED steps, and how the first one's states look."""

    root: Path
    run: Run
    other: Run
    states: dict[int, str]

    def restore(self) -> None:
        """The first run's checkpoints as they were written."""
        shutil.rmtree(self.run.folder.checkpoints, ignore_errors=True)
        shutil.copytree(self.root / "whole", self.run.folder.checkpoints)

    def path(self, step: int) -> Path:
        return self.run.folder.checkpoint(step)


@contextmanager
def make_bench(root: Path) -> Iterator[Bench]:
    """Both runs, trained in this process."""
    write_inputs(root)
    with joined() as ranks:
        runs, states = [], {}
        for seed in (2, 1):
            runs.append(begin(root, ranks, config(seed=seed)))
            progress = Progress()
            for step in SAVED:
                progress = steps(runs[-1], progress, step - progress.step)
                save(runs[-1], replace(progress, best_step=3))
                states[step] = fingerprint(runs[-1])
            settle(runs[-1])
        other, run = runs
        shutil.copytree(run.folder.checkpoints, root / "whole")
        yield Bench(root, run, other, states)
