"""The verbs on processes of this machine: a run is a folder below .kctl/jobs and a detached supervisor.

The rendered PyTorchJob is what runs; image, tini, limits and network are not part of it (kctl.backends.local.env).
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from kctl.backends.facts import LOG_TAIL, Facts, last_lines, pod_with_log
from kctl.backends.local import logs
from kctl.backends.local.env import environment, folders, pod_plans, runs_folder
from kctl.backends.local.files import LocalFiles, write_config_maps
from kctl.backends.local.pod import ANNOTATION_PID, ANNOTATION_STARTED, read_message
from kctl.backends.local.process import Process, detached, identify, kill_marked, require_proc
from kctl.backends.local.store import LocalRun, editing, on_disk, read_json, state_root, write_json
from kctl.backends.local.work import worked
from kctl.backends.local.writing import writable
from kctl.backends.protocol import RunFiles, Work
from kctl.backends.run_view import ANNOTATION_LIFE, condition
from kctl.backends.times import timestamp
from kctl.backends.volume import Volume
from kctl.errors import AlreadyExists, KctlError, NotFound, TimedOut
from kctl.manifest import Manifest, config_map_of, the_job
from trainer.schema.messages import parse_message

_TURN = 0.1
GONE = "the supervisor is gone; submit again to resume"


class Local:
    """The local backend; its state is what lies below `root`."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or state_root()).absolute()

    @property
    def where(self) -> str:
        """For messages."""
        return "locally"

    def now(self) -> datetime:
        """By this machine's clock."""
        return datetime.now(UTC)

    def create(self, manifests: list[Manifest], dry_run: bool = False) -> None:
        """Write the run's folder in one rename and let its supervisor go."""
        require_proc()
        manifest = the_job(manifests)
        run = self._run(manifest["metadata"]["name"])
        for plan in pod_plans(manifest):  # refuses what cannot be had here before anything is written
            folders(run, plan)
            environment(run, manifest, plan, "", 0)
        if run.folder.exists():
            raise AlreadyExists(f"run {run.name} exists locally; see kctl status {run.name} --local")
        if not dry_run:
            with on_disk(self.root):
                self._create(run, manifest, manifests)

    def _create(self, run: LocalRun, manifest: Manifest, manifests: list[Manifest]) -> None:
        claims = [path for plan in pod_plans(manifest) for path in folders(run, plan).values()]
        for path in (run.folder.parent, *(one for one in claims if run.folder not in one.parents)):
            path.mkdir(parents=True, exist_ok=True)
        draft = LocalRun(run.folder.parent / f".new-{uuid.uuid4().hex}" / run.name)
        for folder in (draft.pods, draft.logs, draft.work, draft.config):
            folder.mkdir(parents=True)
        metadata = {**manifest["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": timestamp()}
        write_config_maps(draft.config, manifest, manifests)
        write_json(draft.manifests, manifests)
        write_json(draft.job, {**manifest, "metadata": metadata})
        argv = [sys.executable, "-P", "-m", "kctl.backends.local.supervisor", str(run.folder)]
        pid, go = detached(argv, draft.supervisor_log)
        process = identify(pid)
        try:
            write_json(draft.supervisor, {"pid": process.pid, "started": process.started})
            _rename(draft.folder, run.folder)
            os.write(go, b"go")
        except BrokenPipeError:
            raise KctlError(f"the supervisor did not start; see {run.supervisor_log}") from None
        finally:
            os.close(go)
            shutil.rmtree(draft.folder.parent, ignore_errors=True)

    def get_job(self, run: str) -> Manifest | None:
        """The job, with Failed added where its supervisor died before the end."""
        place = self._run(run)
        job = _job(place)
        if job is None or _over(job) or _supervised(place):
            return job
        job = _job(place)  # it may have ended between the two looks
        if job is None or _over(job) or _supervised(place):
            return job
        lost = {"type": "Failed", "status": "True", "reason": "SupervisorGone", "message": GONE}
        status = job.setdefault("status", {})
        status["conditions"] = [*(one for one in status.get("conditions", []) if one["type"] != "Running"), lost]
        return job

    def get_config_map(self, job: Manifest) -> Manifest | None:
        """The ConfigMap as it was submitted; its files are the pods' own."""
        name = config_map_of(job)
        submitted: list[Manifest] = read_json(self._run(job["metadata"]["name"]).manifests) or []
        maps = (one for one in submitted if one.get("kind") == "ConfigMap" and one["metadata"]["name"] == name)
        return next(maps, None)

    def list_jobs(self) -> list[Manifest]:
        """Every run here, oldest first."""
        jobs = self.root / "jobs"
        names = [path.name for path in jobs.iterdir() if not path.name.startswith(".")] if jobs.is_dir() else []
        found = [job for name in names if (job := self.get_job(name)) is not None]
        return sorted(found, key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))

    def list_pods(self, run: str) -> list[Manifest]:
        """Pods by name; also those of a suspended run stay listed, with how they ended."""
        place = self._run(run)
        records = [read_json(path) for path in sorted(place.pods.glob("[!.]*.json"))]
        pods: list[Manifest] = [record for record in records if record is not None]
        supervised = _supervised(place)
        return [pod if supervised else _as_it_is(place, pod) for pod in pods]

    def pods_by_run(self) -> dict[str, list[Manifest]]:
        """Pods of every run here."""
        names = [str(job["metadata"]["name"]) for job in self.list_jobs()]
        return {name: self.list_pods(name) for name in names}

    def newest_warning(self, run: str, uid: str) -> str:
        """A local job's pods are always made."""
        return ""

    def facts(self, run: str) -> Facts | None:
        """The job, its pods and the last lines of a log: nothing else explains a local run."""
        job = self.get_job(run)
        if job is None:
            return None
        pods = tuple(self.list_pods(run))
        name = pod_with_log(pods)
        log = () if name is None else last_lines(self.log_lines(name, follow=False, since=None, tail=LOG_TAIL))
        return Facts(self.now(), job, pods, log=log)

    def suspend(self, run: str, annotations: dict[str, str]) -> None:
        """Ask the supervisor to stop the pods; where it is gone, end what it left."""
        place = self._run(run)
        with on_disk(self.root), editing(place) as job:
            if job is None:
                raise NotFound(f"no run {run} locally; see kctl list --local")
            job["spec"].setdefault("runPolicy", {})["suspend"] = True
            job["metadata"].setdefault("annotations", {}).update(annotations)

    def annotate(self, run: str, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of the job, or remove those that are None."""
        with on_disk(self.root), editing(self._run(run)) as job:
            if job is None:
                raise NotFound(f"no run {run} locally; see kctl list --local")
            there = {**job["metadata"].get("annotations", {}), **annotations}
            job["metadata"]["annotations"] = {key: value for key, value in there.items() if value is not None}

    def delete(self, run: str, timeout: float, uid: str | None = None) -> None:
        """Stop the pods with their grace, wait, and remove the run's folder (its volumes stay)."""
        place, start = self._run(run), time.monotonic()
        with on_disk(self.root):
            with editing(place) as job:
                if job is None or uid not in (None, job["metadata"]["uid"]):
                    return
                job["metadata"].setdefault("deletionTimestamp", timestamp())
                uid = job["metadata"]["uid"]
                grace = max(plan.grace for plan in pod_plans(job))
            # A pod whose supervisor died got SIGTERM at that moment and may still be saving.
            while _supervised(place) or (time.monotonic() < start + grace and self._orphans(run)):
                if time.monotonic() > start + timeout:
                    raise TimedOut(f"run {run} is still stopping; see kctl status {run} --local and submit again later")
                time.sleep(_TURN)
            for pod in self.list_pods(run):
                if not kill_marked(pod["metadata"]["uid"]):
                    raise KctlError(
                        f"a process of pod {pod['metadata']['name']} cannot be killed; see ps, then try again"
                    )
            self._remove(place, uid)

    def _orphans(self, run: str) -> bool:
        return any(_process(pod).alive for pod in self.list_pods(run))

    def _remove(self, place: LocalRun, uid: str) -> None:
        trash = place.folder.parent / f".old-{uuid.uuid4().hex}"
        with editing(place) as job:
            if job is not None and job["metadata"]["uid"] == uid:
                place.folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def erase(self, run: str) -> None:
        """Remove the run's folder on the runs volume, by the program that a cluster's pod runs."""
        folder = runs_folder(self._run(run), self._known_job(run))
        command = [sys.executable, "-P", "-m", "trainer.erase", "--root", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KctlError((done.stdout or done.stderr).strip() or f"{' '.join(command)}: code {done.returncode}")

    def forget(self, run: str) -> None:
        """Nothing: a local run's ConfigMap went with its folder."""

    def _known_job(self, run: str) -> Manifest:
        job = _job(self._run(run))
        if job is None:
            raise NotFound(f"no run {run} locally; see kctl list --local")
        return job

    def watch_job(self, run: str, timeout: float) -> Iterator[Manifest | None]:
        """The job now and after every change, by looking ten times a second."""
        deadline = time.monotonic() + timeout
        last: Manifest | None = {}
        while True:
            job = self.get_job(run)
            if job != last:
                yield job
            if job is None or time.monotonic() >= deadline:
                return
            last = job
            time.sleep(_TURN)

    def log_lines(
        self, pod: str, follow: bool, since: str | None, tail: int | None = None
    ) -> Iterator[tuple[str, str]]:
        """Every line since `since`, over all lives of the pod; with follow until its present life ends."""
        return logs.lines(self._run(pod.rsplit("-", 2)[0]), pod, follow, (since, tail), self.list_pods)

    def files(self, run: str) -> AbstractContextManager[RunFiles]:
        """The run's folder on the runs volume."""
        return contextlib.nullcontext(LocalFiles(runs_folder(self._run(run), self._known_job(run))))

    def folders(self, jobs: Sequence[Manifest]) -> AbstractContextManager[Mapping[str, RunFiles]]:
        """The folders of several runs, by run."""
        runs = {job["metadata"]["name"]: job for job in jobs}
        return contextlib.nullcontext({run: LocalFiles(runs_folder(self._run(run), job)) for run, job in runs.items()})

    def work(self, run: str, work: Work) -> Iterator[str]:
        """Run a program with the run's volumes and environment to its end; it ends with the iterator, too."""
        return worked(self._run(run), self._known_job(run), work)

    def volume(self, job: Manifest, mount: str, one_node: bool) -> AbstractContextManager[Volume]:
        """The folder that a rendered job has at `mount`."""
        return writable(folders(self._run(job["metadata"]["name"]), pod_plans(job)[0])[mount])

    def _run(self, name: str) -> LocalRun:
        if not name or "/" in name or name.startswith("."):
            raise NotFound(f"{name!r} is no run's name; see kctl list --local")
        return LocalRun(self.root / "jobs" / name)


def _job(run: LocalRun) -> Manifest | None:
    job: Manifest | None = read_json(run.job)
    return job


def _over(job: Manifest) -> bool:
    return any(condition(job, kind) for kind in ("Succeeded", "Failed", "Suspended"))


def _supervised(run: LocalRun) -> bool:
    record = read_json(run.supervisor)
    return record is not None and Process(record["pid"], record["started"]).alive


def _process(pod: Manifest) -> Process:
    notes = pod["metadata"]["annotations"]
    return Process(int(notes.get(ANNOTATION_PID, 0)), notes.get(ANNOTATION_STARTED, "never"))


def _as_it_is(run: LocalRun, pod: Manifest) -> Manifest:
    """A pod whose record nobody keeps any more: if its process is gone, it failed."""
    if pod["status"]["phase"] in ("Succeeded", "Failed") or _process(pod).alive:
        return pod
    message = read_message(run, pod["metadata"]["name"], int(pod["metadata"]["annotations"][ANNOTATION_LIFE]))
    code = parse_message(message).code
    ended = {"exitCode": 137 if code is None else code, "reason": "SupervisorGone", "message": message}
    container = {**pod["status"]["containerStatuses"][0], "state": {"terminated": ended}}
    return {**pod, "status": {"phase": "Failed", "containerStatuses": [container]}}


def _rename(draft: Path, folder: Path) -> None:
    """The moment of creation: of two at once, one is refused."""
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise AlreadyExists(f"run {folder.name} was created by somebody else just now") from None
