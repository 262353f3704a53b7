"""The verbs that both backends offer: the same on pods of a cluster and on processes of this machine.

Objects travel as plain dicts in the shape of the Kubernetes API, so that kctl.backends.run_view reads both alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kctl.backends.facts import Facts
from kctl.backends.volume import Volume
from kctl.manifest import Manifest


class RunFiles(Protocol):
    """Read access to one run's folder on the runs volume. Paths are relative to it, with forward slashes."""

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in `folder`, sorted; empty where it does not exist."""
        ...

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `offset` on, in chunks. NotFound if it is not there."""
        ...


@dataclass(frozen=True)
class Work:
    """One of the trainer's programs: `python -m MODULE WORDS`, by torchrun with one process a GPU where `ranks`.

    It runs below `trainer.pod.filtered`, which takes credentials out of what is printed.
    """

    role: str
    """What it is called where it runs, e.g. merge."""
    module: str
    words: tuple[str, ...]
    ranks: bool = False

    def argv(self, per_node: str) -> list[str]:
        """Its command; `per_node`: how many ranks the run has on a node, as its job says."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={per_node}"] if self.ranks else []
        return ["python", "-m", "trainer.pod.filtered", *torchrun, "-m", self.module, *self.words]


class LogSource(Protocol):
    """Where log lines come from."""

    def log_lines(
        self, pod: str, follow: bool, since: str | None, tail: int | None = None
    ) -> Iterator[tuple[str, str]]:
        """(RFC 3339 time, text) of every line since `since`; with follow until the container ends.

        With tail only the last `tail` of the lines that are there, and what follows.
        """
        ...


class Backend(LogSource, Protocol):
    """Errors are those of kctl.errors; nothing of a client library leaks."""

    @property
    def where(self) -> str:
        """For messages: `locally`, or `in namespace NS of context CTX`."""
        ...

    def now(self) -> datetime:
        """By the clock that stamps this backend's objects and logs: of two machines' clocks one may be wrong."""
        ...

    def create(self, manifests: list[Manifest], dry_run: bool = False) -> None:
        """Create in order. An identical ConfigMap may exist; a job that exists raises AlreadyExists.

        With dry_run everything is checked (on a cluster: by the server) and nothing is kept.
        """
        ...

    def get_job(self, run: str) -> Manifest | None:
        """The PyTorchJob with its status, or None."""
        ...

    def get_config_map(self, job: Manifest) -> Manifest | None:
        """The ConfigMap that the job's pods mount, or None where it is gone."""
        ...

    def list_jobs(self) -> list[Manifest]:
        """Every PyTorchJob that kctl made, oldest first."""
        ...

    def list_pods(self, run: str) -> list[Manifest]:
        """The run's pods that exist now, by name."""
        ...

    def pods_by_run(self) -> dict[str, list[Manifest]]:
        """What list_pods says of every run that has pods, by one call; of a pod its metadata and status alone."""
        ...

    def newest_warning(self, run: str, uid: str) -> str:
        """What the cluster last complained about that very job, in one line; empty where it did not."""
        ...

    def facts(self, run: str) -> Facts | None:
        """All that may explain how the run is; None where there is no such job."""
        ...

    def suspend(self, run: str, annotations: dict[str, str]) -> None:
        """Set runPolicy.suspend and the annotations in one write. NotFound if there is no such job."""
        ...

    def annotate(self, run: str, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of the job, or remove those that are None. NotFound if there is no such job."""
        ...

    def delete(self, run: str, timeout: float, uid: str | None = None) -> None:
        """Delete the job and wait until it and its pods are gone. TimedOut after `timeout` seconds.

        With uid only that very job: one that somebody else created since under the same name is left alone.
        """
        ...

    def erase(self, run: str) -> None:
        """Remove the run's folder from the runs volume: checkpoints, logs, adapters. The job must exist still."""
        ...

    def forget(self, run: str) -> None:
        """Delete what a deleted job leaves beside its outputs."""
        ...

    def watch_job(self, run: str, timeout: float) -> Iterator[Manifest | None]:
        """The job now and after every change, for at most `timeout` seconds; None once it is gone."""
        ...

    def files(self, run: str) -> AbstractContextManager[RunFiles]:
        """The run's folder on the runs volume, readable also when its pods are gone."""
        ...

    def folders(self, jobs: Sequence[Manifest]) -> AbstractContextManager[Mapping[str, RunFiles]]:
        """The folders of several runs, by run, as `files` has one; those on the same volume have one reader.

        A job that mounts no runs volume has none.
        """
        ...

    def volume(self, job: Manifest, mount: str, one_node: bool) -> AbstractContextManager[Volume]:
        """The volume that the pods of `job`, as it was rendered, mount at `mount`, to write to.

        `one_node`: it can be attached to one node at a time.
        """
        ...

    def work(self, run: str, work: Work) -> Iterator[str]:
        """Run a program with the run's volumes and environment to its end; its output, line by line.

        RunFailed where it fails. Asked for again after a stop, it goes on.
        """
        ...
