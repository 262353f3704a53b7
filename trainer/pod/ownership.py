"""One writer a run folder: owner.json {pod_uid, attempt, counter, host, pid, started, released}.

The owner raises the counter every few seconds. A newcomer waits until the counter stood still on its own clock, so
that no clocks need to agree; not at all where the owner released the run, or ran here and its process is gone.
An owner that was suspended meanwhile finds another name in the file and stops.
"""

import contextlib
import errno
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from trainer.atomic import write_json
from trainer.errors import OwnershipLost, RunsFolderError
from trainer.schema.contract import RunFolder


@dataclass(frozen=True)
class Owner:
    """What owner.json says. `host` is host name, boot and process namespace; `started` the process's start ticks."""

    pod_uid: str
    attempt: int
    counter: int
    host: str
    pid: int
    started: int
    released: bool = False

    @property
    def token(self) -> str:
        """What rank 0 keeps to recognise its own owner.json."""
        return json.dumps({"pod_uid": self.pod_uid, "attempt": self.attempt})


@dataclass(frozen=True)
class Timing:
    """Seconds: the owner's beat, how long a counter must stand still, how long a living owner is waited for."""

    beat: float = 5.0
    still: float = 30.0
    patience: float = 600.0
    pause: float = 0.5
    """Longest random pause between claiming and looking again, so that of two claims one loses."""


TIMING = Timing()


def still_owner(folder: RunFolder, token: str) -> bool:
    """True while owner.json names the holder of `token` (Owner.token). RunsFolderError if it cannot be read."""
    owner = read_owner(folder)
    return owner is not None and owner.token == token and not owner.released


def read_owner(folder: RunFolder) -> Owner | None:
    """The owner on record; None where there is none or the file makes no sense."""
    try:
        value = json.loads(_read(folder.owner))
        owner = Owner(**{field.name: value[field.name] for field in fields(Owner)})
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return None
    sound = all(isinstance(getattr(owner, field.name), field.type) for field in fields(Owner))  # type: ignore[arg-type]
    return owner if sound else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ESTALE:  # NFS: renamed over between open and read; the next open finds the new file
            return path.read_bytes()
        raise RunsFolderError(f"{path}: {error.strerror}: check the volume and submit again") from None


class Ownership:
    """A run folder held by this process, from acquire() to release(); a thread keeps the counter moving."""

    def __init__(self, folder: RunFolder, owner: Owner, last: Owner | None, beat: float) -> None:
        self.owner = owner
        self.lasted = last.counter * beat if last is not None else 0.0
        """Seconds for which the owner before gave signs of life."""
        self._folder = folder
        self._beat = beat
        self._lost = threading.Event()
        self._asked = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="owner", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """True once another pod's name was seen in owner.json."""
        return self._lost.is_set()

    @property
    def asked(self) -> bool:
        """True once somebody has put a file called `stop` into the run's folder."""
        return self._asked.is_set()

    def check(self) -> None:
        """OwnershipLost unless owner.json still names this process (a guard for atomic.write_json)."""
        if not still_owner(self._folder, self.owner.token):
            self._lost.set()
            raise OwnershipLost(f"{self._folder.root}: another pod owns this run now; this one stops")

    def release(self) -> None:
        """Let the next owner in without waiting. RunsFolderError if that cannot be written, OwnershipLost if lost."""
        self._stop.set()
        self._thread.join()
        write_json(self._folder.owner, asdict(replace(self.owner, released=True)), self.check)

    def _keep(self) -> None:
        while not self._stop.wait(self._beat):
            self.owner = replace(self.owner, counter=self.owner.counter + 1)
            try:
                write_json(self._folder.owner, asdict(self.owner), self.check)
                with contextlib.suppress(OSError):  # the volume may not answer for a moment
                    if self._folder.stop.exists():
                        self._asked.set()
            except OwnershipLost:
                return
            except RunsFolderError:
                # A full or absent volume ends the run where the run itself needs it; the next beat may succeed.
                continue


def acquire(folder: RunFolder, pod_uid: str, say: Callable[[str], None], timing: Timing = TIMING) -> Ownership:
    """Own the folder as the attempt after the last owner's. RunsFolderError if a living owner does not let go."""
    deadline = time.monotonic() + timing.patience
    while True:
        last = _wait(folder, say, timing, deadline)
        claim = Owner(pod_uid, last.attempt + 1 if last else 1, 0, this_host(), os.getpid(), start_ticks(os.getpid()))

        def unchanged(last: Owner | None = last) -> None:
            if read_owner(folder) != last:
                raise OwnershipLost("somebody was faster")

        try:
            write_json(folder.owner, asdict(claim), unchanged)
        except OwnershipLost:
            continue
        # Two that looked at the same moment have both written; after a pause only the later one finds itself there.
        time.sleep(random.uniform(timing.pause / 2, timing.pause))
        if still_owner(folder, claim.token):
            return Ownership(folder, claim, last, timing.beat)


def _wait(folder: RunFolder, say: Callable[[str], None], timing: Timing, deadline: float) -> Owner | None:
    """The last owner, once it is sure that it writes no more; None where there never was one."""
    seen, since, told = read_owner(folder), time.monotonic(), False
    while seen is not None and not seen.released and not process_gone(seen):
        now = time.monotonic()
        if now - since >= timing.still:
            say(f"owner {seen.pod_uid} (attempt {seen.attempt}) stood still for {timing.still:.0f} s: taking over")
            break
        if now >= deadline:
            raise RunsFolderError(
                f"{folder.root}: belongs to pod {seen.pod_uid} on {seen.host.partition(' ')[0]}, which is alive "
                f"(attempt {seen.attempt}): cancel that run first (kctl cancel) and submit again"
            )
        if not told:
            say(f"waiting for owner {seen.pod_uid} (attempt {seen.attempt}) to let go or stand still")
            told = True
        time.sleep(min(timing.still / 10, 1.0))
        current = read_owner(folder)
        if current != seen:
            seen, since = current, time.monotonic()
    return seen


def this_host() -> str:
    """Names one process table: a pod made again on the same machine has the same host name, but not this."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 where it is gone or a zombie. Tells reused pids apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    state, *rest = stat.rpartition(")")[2].split()  # the name in parentheses may hold spaces
    return 0 if state in ("Z", "X") else int(rest[18])


def process_gone(owner: Owner) -> bool:
    """True where the owner ran in this process table and has ended."""
    return owner.host == this_host() and start_ticks(owner.pid) != owner.started
