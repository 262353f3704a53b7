"""A user's working directory, and kctl driven in it as a user does: ./configs, .kctl with a tiny model and data.

Everything that runs for a world carries its TMPDIR in the environment: that is how its processes are found.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kctl.config.run_config import load
from trainer.schema.contract import RunFolder
from trainer.schema.loading import RunFile

WORDS = ["the", "ledger", "floor", "rain", "night", "house", "tell", "me", "never"]
WORDS += ["again", "why", "not", "yes", "maybe", "lens", "sleep", "run", "door"]
OTHER_WORDS = ["amber", "quartz", "violin", "nephew", "harvest", "copper"]
OTHER_WORDS += ["bishop", "meadow", "lantern", "saddle", "pepper", "anvil"]
BASE: dict[str, Any] = {
    "model": {"path": "dense"},
    "data": {
        "path": "train.jsonl",
        "format": "prompt_completion",
        "validation": {"path": "held.jsonl"},
        "max_length": 256,
    },
    "lora": {"rank": 4},
    "optim": {"lr": 1e-3, "max_grad_norm": 1.0},
    "global_batch_size": 4,
    "ops": {"log_every": 1, "generate": {"items": 1, "max_new_tokens": 8}},
}
"""A small run on two files of pairs; what a test changes is laid over it."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def ended(process: "subprocess.Popen[str]", seconds: float = 400.0) -> Done:
    """What a command came to, once it has ended."""
    out, err = process.communicate(timeout=seconds)
    return Done(process.returncode, out, err)


@dataclass(frozen=True)
class World:
    """The working directory `root`."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / ".kctl" / "data"

    @property
    def models(self) -> Path:
        return self.root / ".kctl" / "models"

    @property
    def environ(self) -> dict[str, str]:
        """Of a user's shell; TMPDIR marks everything that comes from it."""
        ours = ("TRAINER_", "PET_", "KCTL_LOCAL", "KCTL_CONFIGS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**kept, "TMPDIR": str(self.root / "tmp"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def config(self, name: str, nodes: int = 1, processes: int = 2, **train: Any) -> None:
        """Write configs/NAME.yaml: BASE with `train` laid over it (None removes), on CPUs."""
        merged = overlaid(BASE, train)
        cluster = {"profile": "cpu", "nodes": nodes, "gpus_per_node": 0, "processes_per_node": processes}
        text = f"# kctl submit {name} --local\n{json.dumps({'name': name, 'train': merged, 'cluster': cluster})}\n"
        (self.root / "configs" / f"{name}.yaml").write_text(text)

    def start(self, *argv: str, prefix: Iterable[str] = (), python: str = sys.executable) -> "subprocess.Popen[str]":
        """`kctl ARGV` in the working directory."""
        return subprocess.Popen(
            [*prefix, python, "-m", "kctl", *argv],
            cwd=self.root,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kctl(self, *argv: str, prefix: Iterable[str] = (), python: str = sys.executable) -> Done:
        """The same to its end."""
        return ended(self.start(*argv, prefix=prefix, python=python))

    def ok(self, *argv: str) -> Done:
        """The same, which must succeed."""
        done = self.kctl(*argv)
        assert done.code == 0, f"kctl {' '.join(argv)}: {done.code}\n{done.out[-3000:]}\n{done.err[-3000:]}"
        return done

    def run_file(self, config: str) -> RunFile:
        """What kctl would send to the launcher."""
        loaded = load(str(self.root / "configs" / f"{config}.yaml"), []).config
        return RunFile(loaded.run, loaded.train)

    def launch(self, config: str, *argv: str, prefix: Iterable[str] = ()) -> tuple[int, str]:
        """`python -m trainer.launch ARGV` by hand, without kctl, on the same volumes; code and output."""
        path = self.root / "tmp" / f"{config}.json"
        path.write_text(self.run_file(config).to_json())
        volumes = {f"TRAINER_{name.upper()}": str(self.root / ".kctl" / name) for name in ("models", "data", "runs")}
        pod = {"TRAINER_CONFIG": str(path), "PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "trainer.launch", *argv],
            cwd=self.root,
            env={**self.environ, **volumes, **pod},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=200,
        )
        return done.returncode, done.stdout

    def status(self, run: str) -> dict[str, Any]:
        """What `kctl status -o json` says."""
        value: dict[str, Any] = json.loads(self.ok("status", run, "--local", "-o", "json").out)
        return value

    def run(self, config: str) -> str:
        """Name of the only run of that config on the runs volume, or of its job."""
        places = [self.root / ".kctl" / "runs", self.root / ".kctl" / "jobs"]
        (name,) = {path.name for place in places for path in place.glob(f"{config}-*")}
        return name

    def folder(self, config: str) -> RunFolder:
        return RunFolder(self.root / ".kctl" / "runs" / self.run(config))

    def log(self, config: str, attempt: int = 1, node: int = 0) -> str:
        """One node's log on the runs volume."""
        return self.folder(config).log(attempt, node).read_text()

    def records(self, config: str) -> list[dict[str, Any]]:
        """metrics.jsonl."""
        return [json.loads(line) for line in self.folder(config).metrics.read_text().splitlines()]

    def result(self, config: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.folder(config).result.read_bytes())
        return value

    def processes(self, config: str = "") -> Iterator[tuple[int, bytes, bytes]]:
        """(pid, command line, environment) of what runs for this world, or for one config's run in it."""
        mark, wanted = f"TMPDIR={self.root / 'tmp'}\0".encode(), f"/.kctl/jobs/{config}".encode()
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (environment := (entry / "environ").read_bytes()):
                    line = (entry / "cmdline").read_bytes()
                    if wanted in environment + line:
                        yield int(entry.name), line, environment

    def pids(self, config: str, *parts: str) -> list[int]:
        """Of the run's processes those with all `parts` in the command line or the environment."""
        wanted = [part.encode() for part in parts]
        return [pid for pid, *texts in self.processes(config) if all(part in b"\0".join(texts) for part in wanted)]

    def ranks(self, config: str, node: int | None = None) -> list[int]:
        """The training processes of a run, of one node or of all."""
        return self.pids(config, "LOCAL_RANK=", "" if node is None else f"PET_NODE_RANK={node}\0")

    def kill(self, config: str = "") -> int:
        """SIGKILL for everything of a run (or of the world) at once, as when the machine loses power; how many."""
        count = 0
        while pids := [pid for pid, line, _ in self.processes(config) if line]:  # a zombie has no command line
            for pid in pids:
                send(pid, signal.SIGKILL)
            count += len(pids)
            time.sleep(0.02)
        return count

    def until_checkpoint(self, config: str, step: int) -> None:
        """Return as soon as a checkpoint of `step` or later is there."""
        runs = self.root / ".kctl" / "runs"
        wait_for(lambda: any(int(path.name[5:]) >= step for path in runs.glob(f"{config}-*/checkpoints/step-*")))


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, map by map; None removes."""
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        else:
            both = isinstance(value, dict) and isinstance(below.get(key), dict)
            merged[key] = overlaid(below[key], value) if both else value
    return merged


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """These processes stand still inside the block, so that what happens meanwhile meets them where they are."""
    assert pids, "nothing runs"
    for pid in pids:
        send(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            send(pid, signal.SIGCONT)


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_for(condition: Callable[[], object], seconds: float = 200.0) -> None:
    """Return once `condition` holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextmanager
def make_world(root: Path) -> Iterator[World]:
    """A working directory with data and no model yet; at the end nothing of it is left running."""
    world = World(root)
    for folder in (root / "configs", root / "tmp", world.data, world.models):
        folder.mkdir(parents=True)
    write_pairs(world.data / "train.jsonl", WORDS, 24)
    write_pairs(world.data / "held.jsonl", WORDS, 5)
    write_dialogue(world.data / "train.json", WORDS, users=8, items=6)
    write_dialogue(world.data / "held.json", OTHER_WORDS, users=3, items=3)
    try:
        yield world
    finally:
        world.kill()


def write_pairs(path: Path, words: list[str], count: int) -> None:
    """JSONL of prompt and completion."""
    rng = random.Random(path.name)
    pairs = [{"prompt": _line(rng, words, 30), "completion": _line(rng, words, 12)} for _ in range(count)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def write_dialogue(path: Path, words: list[str], users: int, items: int) -> None:
    """Chameleons: made-up users whose answers are made of `words`, of lengths that differ a lot."""
    rng = random.Random(path.name)

    def item(name: str) -> dict[str, Any]:
        said = [("X", 25), (name, 9), ("X", 25)]
        context = [{"source": source, "content": _line(rng, WORDS, longest)} for source, longest in said]
        return {"context": context, "continuation": _line(rng, words, 12)}

    def row(user: int) -> dict[str, Any]:
        data = [item(f"P{user}") for _ in range(items)]
        collections = [{"type": "dialogue", "data": data}]
        task = {"description": "x", "task_behavior_collections": collections}
        return {"user_hash": f"{user:032x}", "user": {"profile": {"name": f"P{user}"}}, "task": task}

    path.write_text(json.dumps([row(user) for user in range(users)]))


def _line(rng: random.Random, words: list[str], longest: int) -> str:
    return " ".join(rng.choices(words, k=rng.randint(1, longest)))
