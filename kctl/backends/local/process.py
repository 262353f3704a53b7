"""Which process is which: a pid alone may be somebody else's by now, so two marks go with it.

A process is (pid, boot id and start ticks); everything a pod started carries its uid in the environment, also
what left the process group (torchrun gives each rank a session of its own).
"""

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from kctl.errors import KctlError

ENV_MARK = "KCTL_LOCAL_POD"
"""Set to the pod's uid in each of its processes."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Process:
    """A process that can be told from a later one of the same pid."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """True while this very process runs (a zombie does not)."""
        return _started(self.pid) == self.started


def identify(pid: int) -> Process:
    """The process that has this pid now."""
    started = _started(pid)
    return Process(pid, started or "gone")


def require_proc() -> None:
    """KctlError where /proc is missing: without it a process cannot be identified."""
    if not Path("/proc/self/stat").exists():
        raise KctlError("kctl --local needs Linux (/proc); on other systems submit to a cluster or use a Linux machine")


def _started(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The second field is the program's name in brackets and may hold spaces and brackets itself.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else f"{boot}/{fields[19].decode()}"


def marked(uid: str) -> list[int]:
    """Pids of all living processes of the pod with this uid."""
    mark, found = f"{ENV_MARK}={uid}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # gone meanwhile, or another user's
            continue
        if mark in environment.split(b"\0") and _started(int(entry.name)):
            found.append(int(entry.name))
    return found


def kill_marked(uid: str, patience: float = 10.0) -> bool:
    """SIGKILL everything of a pod until nothing is left, True if so; a stuck one (disk sleep) gives False."""
    deadline = time.monotonic() + patience
    while pids := marked(uid):
        if time.monotonic() > deadline:
            return False
        for pid in pids:
            send(pid, signal.SIGKILL)
        time.sleep(0.02)
    return True


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def die_with_parent() -> None:
    """In a child before exec: SIGTERM it when its supervisor is killed, so that no training goes on unseen."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def detached(argv: list[str], log: Path) -> tuple[int, int]:
    """Start a program in a session of its own, its output in `log`; (its pid, the descriptor it has as its stdin)."""
    awaiting, go = os.pipe()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    actions = [(os.POSIX_SPAWN_DUP2, awaiting, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)]
    try:
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsid=True), go
    finally:
        os.close(awaiting)
        os.close(out)
