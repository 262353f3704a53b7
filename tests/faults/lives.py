"""A run that dies many times: the launcher started as a pod would, and killed at moments that a seed names."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.training.world import World, send, wait_for
from trainer.schema.contract import RunFolder

EVERY = 2
"""Steps between checkpoints."""
STEPS_A_LIFE = 8
Victim = Literal["rank 0", "rank 1", "torchrun", "launcher", "everything"]


@dataclass(frozen=True)
class Kill:
    """SIGKILL for `victim`."""

    victim: Victim
    step: int
    """When this step is on record; 0: while everything still starts."""
    after: float
    """Seconds later."""
    writing: bool = False
    """And then as soon as a checkpoint is being written."""

    def __str__(self) -> str:
        where = f"step {self.step}" if self.step else "the start"
        return f"{self.victim} {self.after:.3f} s after {where}{', in a checkpoint' if self.writing else ''}"


def moments(seed: int, count: int) -> list[Kill]:
    """Of the life of a run of count * STEPS_A_LIFE steps: two in five inside a checkpoint's writing, one at a start."""
    rng = random.Random(seed)
    victims: list[Victim] = ["rank 0", "rank 1", "torchrun", "launcher", "everything"]
    found = []
    for number in range(count):
        victim = victims[number % 5] if number % 10 < 5 else rng.choice(victims)
        step = number * STEPS_A_LIFE + rng.randint(1, STEPS_A_LIFE)
        kind = rng.choice(["writing", "writing", "any", "any", "start"])
        if kind == "start":
            found.append(Kill(victim if victim in ("launcher", "everything") else "torchrun", 0, rng.uniform(0.0, 2.5)))
        else:
            found.append(Kill(victim, step, rng.uniform(0.0, 0.08), kind == "writing"))
    return found


def processes(world: World) -> list[tuple[int, bytes, bytes]]:
    """(pid, command line, environment) of everything that runs for this world and is no zombie."""
    mark, found = f"TMPDIR={world.root / 'tmp'}\0".encode(), []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark in (environment := (entry / "environ").read_bytes()):
                line = (entry / "cmdline").read_bytes()
                if line:
                    found.append((int(entry.name), line, environment))
    return found


@dataclass
class Life:
    """One launcher, its ranks, and what it prints."""

    world: World
    config: str
    process: "subprocess.Popen[bytes]"
    output: Path

    def ranks(self) -> dict[int, int]:
        """Rank -> process."""
        found = {}
        for pid, line, environment in processes(self.world):
            rank = re.search(rb"\0RANK=(\d+)\0", b"\0" + environment)
            if rank and b"trainer.train" in line:
                found[int(rank[1])] = pid
        return found

    def victims(self, victim: Victim) -> list[int]:
        """The processes to kill; none where they are not there (yet)."""
        if victim == "launcher":
            return [self.process.pid]
        if victim == "everything":
            return [pid for pid, _, _ in processes(self.world)]
        if victim == "torchrun":
            return [pid for pid, line, _ in processes(self.world) if b"torch.distributed.run" in line]
        rank = self.ranks().get(int(victim[-1]))
        return [rank] if rank is not None else []


def start(world: World, config: str, number: int) -> Life:
    """The launcher of this config's run, two ranks, on the world's volumes. What an attempt before came to is
    forgotten, so that nobody waits for 10, 20, 40 s."""
    file = world.run_file(config)
    path, output = world.root / "tmp" / f"{config}.json", world.root / f"{config}-{number}.log"
    path.write_text(file.to_json())
    folder(world, config).attempts.unlink(missing_ok=True)
    volumes = {f"TRAINER_{name.upper()}": str(world.root / ".kctl" / name) for name in ("models", "data", "runs")}
    pod = {"TRAINER_CONFIG": str(path), "PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "DS_ACCELERATOR": "cpu"}
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.launch"],
            cwd=world.root,
            env={**world.environ, **volumes, **pod},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Life(world, config, process, output)


def folder(world: World, config: str) -> RunFolder:
    """The run's, also before it is there."""
    return RunFolder(world.root / ".kctl" / "runs" / world.run_file(config).run)


def newest(run: RunFolder) -> int:
    """Step of the newest checkpoint that is there; 0: none."""
    return max((int(path.name[5:]) for path in run.checkpoints.glob("step-*")), default=0)


def last_step(run: RunFolder) -> int:
    """The last step on record."""
    records = run.metrics.read_bytes().splitlines() if run.metrics.exists() else []
    for line in reversed(records):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError):
            continue
    return 0


def kill(life: Life, moment: Kill) -> float:
    """Wait for the moment and kill; seconds until nothing of the life is left. The run must not end before."""
    run, ended = folder(life.world, life.config), life.process.poll

    def reached(condition: Callable[[], object]) -> None:
        wait_for(lambda: condition() or ended() is not None, 120)
        assert ended() is None, f"{moment}: the run ended before:\n{life.output.read_text()[-3000:]}"

    if moment.step:
        # The life before may have been quicker than its kill: this one has to have made steps of its own.
        reached(lambda: last_step(run) >= moment.step and b"\nstep=" in life.output.read_bytes())
    time.sleep(moment.after)
    if moment.writing:
        eagerly(lambda: any(run.checkpoints.glob(".step-*.tmp")))
    reached(lambda: life.victims(moment.victim))
    began = time.monotonic()
    while pids := [pid for pid in life.victims(moment.victim) if alive(pid)]:
        for pid in pids:
            send(pid, signal.SIGKILL)
        if moment.victim != "everything":
            break
    life.process.wait(60)
    wait_for(lambda: not [pid for pid, _, _ in processes(life.world)], 60)
    return time.monotonic() - began


def alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def eagerly(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """As soon as may be: a checkpoint of a tiny model is written in milliseconds. Later than never is no harm."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        os.sched_yield()


def numbers(run: RunFolder) -> list[dict[str, Any]]:
    """What metrics.jsonl says of each step and evaluation, but for times."""
    names = ("step", "loss", "lr", "grad_norm", "evaluation")
    return [{name: json.loads(line).get(name) for name in names} for line in run.metrics.read_text().splitlines()]
