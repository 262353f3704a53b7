"""The files of the local backend: where they lie and how they are written.

.kctl/<claim>/<subPath>/            a volume
.kctl/jobs/<run>/job.json           the PyTorchJob with status; edited under a lock by kctl and the supervisor
.kctl/jobs/<run>/manifests.json     what was submitted
.kctl/jobs/<run>/pods/<pod>.json, logs/<pod>-<n>.log, config/, work/, supervisor.{pid,log}
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kctl.errors import KctlError
from kctl.manifest import Manifest

ENV_ROOT = "KCTL_LOCAL"
"""Folder of all local state; without it `.kctl` of the working directory."""


@dataclass(frozen=True)
class LocalRun:
    """Paths of one local run."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def job(self) -> Path:
        return self.folder / "job.json"

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests.json"

    @property
    def pods(self) -> Path:
        return self.folder / "pods"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def supervisor(self) -> Path:
        return self.folder / "supervisor.pid"

    @property
    def supervisor_log(self) -> Path:
        return self.folder / "supervisor.log"

    def pod(self, name: str) -> Path:
        """The pod's record."""
        return self.pods / f"{name}.json"

    def log(self, pod: str, life: int) -> Path:
        """What one life of a pod printed, one `<time> <text>` a line, as the kubelet keeps it."""
        return self.logs / f"{pod}-{life}.log"


def state_root() -> Path:
    """$KCTL_LOCAL, else `.kctl` of the working directory, absolute."""
    return Path(os.environ.get(ENV_ROOT) or ".kctl").absolute()


@contextlib.contextmanager
def on_disk(root: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename or root
        raise KctlError(f"{where}: {error.strerror or error}; free or mend it, or set {ENV_ROOT}") from None


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by rename, so that readers see the old or the new content."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_json(path: Path) -> Any:
    """The JSON in `path`, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise KctlError(f"{path}: no JSON ({error}); delete its folder and submit again") from None


@contextlib.contextmanager
def editing(run: LocalRun) -> Iterator[Manifest | None]:
    """The job to change in place (None: there is none); written back if changed, one writer at a time."""
    lock = _locked(run)
    if lock is None:
        yield None
        return
    with lock:
        job = read_json(run.job)
        before = json.dumps(job)
        yield job
        if job is not None and json.dumps(job) != before:
            write_json(run.job, job)


def _locked(run: LocalRun) -> IO[str] | None:
    path = run.folder / "lock"
    while True:
        try:
            lock = path.open("a")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                return lock
            lock.close()  # the folder was replaced while this waited
        except (FileNotFoundError, NotADirectoryError):
            return None
