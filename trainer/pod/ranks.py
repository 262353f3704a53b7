"""Start the ranks of this node through torchrun, watch them, and make sure that none of them is left.

torchrun puts every rank into a session of its own, so a signal to one group would miss them: whoever must go is found
through the process table. Should the launcher itself be killed, the kernel tells torchrun to end its ranks.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from trainer.atomic import write_text
from trainer.errors import ConfigError, RunsFolderError
from trainer.pod.stopping import Stop
from trainer.pod.tee import Tee
from trainer.schema import contract

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
PROGRAM = ("-m", "trainer.train")

_DROPPED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PET_STANDALONE")
"""The operator's RANK and WORLD_SIZE count nodes, and torchrun stumbles over an empty PET_STANDALONE."""

_TIED = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)
"""Becomes the given command with PR_SET_PDEATHSIG set. Not preexec_fn: the launcher has threads."""

_NEVER_JOINED = (b"torch.distributed.DistStoreError:", b"torch.distributed.DistNetworkError:")
"""How torchrun's traceback ends when the static rendezvous is over time."""

POLL = 0.2
"""Seconds between two looks at the ranks."""


def torchrun(environ: Mapping[str, str]) -> list[str]:
    """The command for this node: PET_* say it all in a pod; by hand one node meets itself on a free port."""
    meeting: list[str] = []
    if not environ.get("PET_MASTER_ADDR"):
        if environ.get("PET_NNODES", "1") != "1":
            raise ConfigError(f"PET_NNODES={environ['PET_NNODES']} needs PET_MASTER_ADDR: render the job with kctl")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            meeting = ["--master-addr", "127.0.0.1", "--master-port", str(probe.getsockname()[1])]
    return [*TORCHRUN, *meeting, *PROGRAM]


def rank_environment(environ: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """What the ranks see: ours but for what would mislead torchrun, with `own` on top."""
    kept = {name: value for name, value in environ.items() if name not in _DROPPED}
    return {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **kept, **own}


def tied(command: Sequence[str]) -> list[str]:
    """`command`, which the kernel sends SIGTERM should this process end before it."""
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def run_ranks(
    command: Sequence[str], environ: Mapping[str, str], tee: Tee, stop: Stop, watch: Callable[[], bool]
) -> tuple[int, bool]:
    """Run to the end; all output goes to `tee`. `watch` is asked now and then: False means end the ranks now.

    Returns the exit status (negative: killed by that signal) and whether torchrun gave up waiting for other nodes.
    """
    adopt_orphans()
    process = subprocess.Popen(
        tied(command),
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C at a terminal reaches the launcher alone
    )
    tails: list[bytes] = []
    stream = cast(BinaryIO, process.stdout)
    pump = threading.Thread(target=lambda: tails.append(tee.pump(stream)), name="pump", daemon=True)
    pump.start()
    try:
        _wait(process, stop, Path(environ[contract.ENV_STOP_FILE]), watch)
    finally:
        kill_descendants()
        process.wait()
        pump.join(timeout=5.0)
    return process.returncode, any(words in tails[0] for words in _NEVER_JOINED) if tails else False


def _wait(process: "subprocess.Popen[bytes]", stop: Stop, stop_file: Path, watch: Callable[[], bool]) -> None:
    terminate_at = kill_at = float("inf")
    told = terminated = False
    while process.poll() is None:
        if not watch() and kill_at == float("inf"):
            terminate_at, kill_at = time.monotonic(), time.monotonic() + 15.0
        if stop.asked is not None:
            told = told or _tell(stop_file, stop.asked)
            terminate_at, kill_at = min(terminate_at, stop.terminate_at), min(kill_at, stop.kill_at)
            if not terminated and not descendants(process.pid):
                terminate_at = 0.0  # no rank yet, as in the rendezvous: nobody reads the stop file
        if time.monotonic() >= terminate_at and not terminated:
            process.terminate()
            terminated = True
        if time.monotonic() >= kill_at:
            kill_descendants()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=POLL)


def _tell(stop_file: Path, why: str) -> bool:
    try:
        write_text(stop_file, why)
    except RunsFolderError:  # the node's own disk is full: tried again until the grace is over
        return False
    return True


def adopt_orphans() -> None:
    """From now on a rank whose torchrun was killed becomes our child, so that it can be found (Linux)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def kill_descendants() -> None:
    """SIGKILL for every process below this one, until none is left that runs."""
    for _ in range(100):
        found = descendants(os.getpid())
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """All running processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state not in ("Z", "X"):
            children.setdefault(int(parent), []).append(int(entry.name))
    found, frontier = [], [pid]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found
