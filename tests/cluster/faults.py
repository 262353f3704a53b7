"""What tests do to a run while it trains, to its pods and to the API server, and how they read what became of it."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.conftest import BIN, HERE, RUN
from tests.cluster.team import Team
from tests.training.world import Done, frozen, send
from trainer.schema.messages import parse_step_line

UP = HERE / "up.sh"
LONG: dict[str, Any] = {
    "epochs": 15,
    "evaluation": {"per_epoch": 1},
    "optim": {"lr": 1e-3, "schedule_epochs": 15},
    "ops": {"checkpoint": {"every": "4 steps"}},
}
STEPS = 90
"""Long enough to be met in the middle."""
FIRST = 8
"""A fault waits for the checkpoint of this step."""


def master(run: str) -> str:
    """The pod of a run on one node."""
    return f"{run}-master-0"


def launcher(team: Team, pod: str) -> int:
    """The first process of the pod below tini."""
    found = team.pids(pod, "python -m trainer.launch")
    (pid,) = (pid for pid in found if Path(f"/proc/{pid}/comm").read_text().strip() != "tini")
    return pid


def ranks(team: Team, *pods: str) -> list[int]:
    """The training processes of the pods."""
    return [pid for pod in pods for pid in team.pids(pod, "-u -m trainer.train")]


@contextmanager
def held(team: Team, run: str, *pods: str, step: int = FIRST) -> Iterator[list[int]]:
    """The pods' ranks, standing still from a checkpoint of `step` or later on, everything they said being written."""
    team.until_checkpoint(run, step)
    found = ranks(team, *pods)
    with frozen(found):
        time.sleep(0.5)
        yield found


def until_told(team: Team, pod: str) -> None:
    """Return once the pod's launcher knows that it has to stop."""
    tmp = tmp_of(team, pod)
    team.until(lambda: list(tmp.glob("kctl-*/stop")), f"{pod} is told to stop")


def tmp_of(team: Team, pod: str) -> Path:
    """/tmp as the pod's launcher sees it."""
    return Path(f"/proc/{launcher(team, pod)}/root/tmp")


def kill(*pids: int) -> None:
    """kill -9."""
    for pid in pids:
        send(pid, signal.SIGKILL)


@contextmanager
def reading(team: Team, *argv: str, **environment: str) -> Iterator["Future[Done]"]:
    """`kctl ARGV` beside the block, its output read as it comes; ended when the block is left."""
    with ThreadPoolExecutor(1) as reader:
        yield reader.submit(team.kctl, *argv, **environment)


def until_there(path: Path, size: int) -> float:
    """Return once the file has grown to `size` bytes: when that was."""
    end = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < end, f"{path} does not grow to {size} bytes"
        time.sleep(0.005)
    return time.monotonic()


def evict(team: Team, pod: str) -> None:
    """What `kubectl drain` asks for."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{team.shell.namespace}/pods/{pod}/eviction"
    team.shell.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                continue
        except OSError:
            return


def newest(team: Team, run: str) -> int:
    """Step of the newest checkpoint."""
    return max((int(path.name[5:]) for path in team.folder(run).checkpoints.glob("step-*")), default=0)


def log(team: Team, run: str, attempt: int, node: int = 0) -> list[str]:
    """The lines of one attempt on the volume."""
    return team.folder(run).log(attempt, node).read_text().splitlines()


def kept(team: Team, run: str, node: int = 0) -> list[str]:
    """The lines of all attempts on the volume."""
    numbers = sorted(int(path.name.split("-")[1]) for path in team.folder(run).logs.glob(f"*-node-{node}.log"))
    return [line for number in numbers for line in log(team, run, number, node)]


def shown(submitted: Done) -> list[str]:
    """The log as `kctl submit --follow` showed it."""
    created, *lines = submitted.out.splitlines()
    assert created.endswith(" created"), submitted.out
    return lines


def steps(lines: list[str]) -> list[int]:
    """The steps that the lines tell of."""
    return [step.step for line in lines if (step := parse_step_line(line))]


def resumed_from(lines: list[str]) -> int:
    """The checkpoint that an attempt says it goes on from."""
    (step,) = re.findall(r"^attempt \d+ of .*, newest checkpoint: step (\d+)$", "\n".join(lines), re.MULTILINE)
    return int(step)


@contextmanager
def dead_api_server(seconds: float) -> Iterator[None]:
    """Killed before the block; after it and `seconds` it is there again, at the same address."""
    pid = int((RUN / "pid" / "kube-apiserver").read_text())
    assert str(BIN / "kube-apiserver") in Path(f"/proc/{pid}/cmdline").read_text()
    os.kill(pid, signal.SIGKILL)
    try:
        yield
        time.sleep(seconds)
    finally:
        subprocess.run([UP], check=True, capture_output=True, timeout=200)
