"""The verbs on a real cluster, through the official Kubernetes client.

This package alone talks to the API; the client is loaded at the first call, not at import. A job is created, suspended,
annotated and deleted, never applied or patched otherwise: later pods of a changed job would have another template.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cached_property
from typing import Any

from kctl.backends.cluster.api import MANAGER, Api
from kctl.backends.cluster.kubeconfig import Connection, connection
from kctl.backends.cluster.logs import Given, lines
from kctl.backends.cluster.pods import by_run
from kctl.backends.cluster.queues import deactivate_workloads
from kctl.backends.cluster.watch import snapshots
from kctl.backends.cluster.writing import writable
from kctl.backends.facts import Facts
from kctl.backends.protocol import RunFiles, Work
from kctl.backends.run_view import newest_warning
from kctl.backends.survey import Questions, Survey
from kctl.backends.volume import Volume
from kctl.errors import AlreadyExists, NotFound, Refused, TimedOut, UsageError
from kctl.manifest import LABEL_QUEUE, Manifest, config_map_of
from trainer.schema.contract import LABEL_JOB_NAME, LABEL_RUN

RESOURCES = {
    ("v1", "ConfigMap"): ("/api/v1", "configmaps"),
    ("v1", "Pod"): ("/api/v1", "pods"),
    ("kubeflow.org/v1", "PyTorchJob"): ("/apis/kubeflow.org/v1", "pytorchjobs"),
}
"""What kctl creates: (apiVersion, kind) -> (prefix of the path, plural)."""


class Cluster:
    """One namespace of one cluster: what is named, else the kube config's own."""

    def __init__(self, namespace: str | None, context: str | None) -> None:
        self._namespace = namespace
        self._context = context

    @cached_property
    def _connection(self) -> Connection:
        return connection(self._context)

    @cached_property
    def _api(self) -> Api:
        return Api(self._connection)

    @property
    def namespace(self) -> str:
        """The namespace that every call goes to."""
        return self._namespace or self._connection.namespace

    @property
    def where(self) -> str:
        """For messages: `in namespace NS of context CTX`."""
        context = self._connection.context
        return f"in namespace {self.namespace} of " + (f"context {context}" if context else "this cluster")

    def now(self) -> datetime:
        """By the API server's clock, as far as it has answered yet."""
        return self._api.now

    def create(self, manifests: list[Manifest], dry_run: bool = False) -> None:
        """Create in order. An identical ConfigMap may exist; a job that exists raises AlreadyExists.

        With dry_run the server checks, defaults and admits them, and stores nothing.
        """
        for manifest in manifests:
            try:
                self._post(manifest, {"dryRun": "All"} if dry_run else {})
            except AlreadyExists:
                if manifest["kind"] != "ConfigMap":
                    raise
                self._compare(manifest)

    def get_job(self, run: str) -> Manifest | None:
        """The PyTorchJob with its status, or None."""
        try:
            return self._api.get(f"read PyTorchJob {run}", self._path("PyTorchJob", run))
        except NotFound:
            return None

    def get_config_map(self, job: Manifest) -> Manifest | None:
        """The ConfigMap that the job's pods mount, or None where it is gone."""
        name = config_map_of(job)
        if name is None:
            return None
        try:
            return _typed(self._api.get(f"read ConfigMap {name}", self._path("ConfigMap", name)), "ConfigMap")
        except NotFound:
            return None

    def list_jobs(self) -> list[Manifest]:
        """Every PyTorchJob that kctl made, oldest first."""
        found = self._api.get("list PyTorchJobs", self._path("PyTorchJob"), {"labelSelector": LABEL_RUN})
        return sorted(_items(found, "PyTorchJob"), key=lambda job: (_created(job), _name(job)))

    def list_pods(self, run: str) -> list[Manifest]:
        """The run's pods that exist now, by name."""
        query = {"labelSelector": f"{LABEL_JOB_NAME}={run}"}
        return sorted(_items(self._api.get(f"list pods of {run}", self._path("Pod"), query), "Pod"), key=_name)

    def pods_by_run(self) -> dict[str, list[Manifest]]:
        """Every run's pods, by name."""
        return by_run(self._api, self._path("Pod"))

    def newest_warning(self, run: str, uid: str) -> str:
        """The newest warning among the events of that very job, e.g. that a quota forbids its pods."""
        about = f"involvedObject.uid={uid},type=Warning"
        path = f"/api/v1/namespaces/{self.namespace}/events"
        return newest_warning(self._api.get(f"list events of {run}", path, {"fieldSelector": about}).get("items") or [])

    def facts(self, run: str) -> Facts | None:
        """All that may explain how the run is; None where there is no such job."""
        from kctl.backends.cluster.facts import gathered

        job = self.get_job(run)
        if job is None:
            return None
        return gathered(self._api, self.namespace, job, tuple(self.list_pods(run)))

    def survey(self, questions: Questions) -> Survey:
        """What the cluster answers to the questions of `kctl doctor`. Unreachable where it does not answer."""
        from kctl.backends.cluster.survey import surveyed

        return surveyed(self._api, self.namespace, questions)

    def suspend(self, run: str, annotations: dict[str, str]) -> None:
        """Set runPolicy.suspend and the annotations in one write. NotFound if there is no such job."""
        body = {"metadata": {"annotations": annotations}, "spec": {"runPolicy": {"suspend": True}}}
        job = self._api.merge_patch(f"suspend {run}", self._path("PyTorchJob", run), body, MANAGER)
        if LABEL_QUEUE in (job["metadata"].get("labels") or {}):
            deactivate_workloads(self._api, self.namespace, run, str(job["metadata"]["uid"]))

    def annotate(self, run: str, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of the job, or remove those that are None. NotFound if there is no such job."""
        body = {"metadata": {"annotations": dict(annotations)}}
        self._api.merge_patch(f"annotate {run}", self._path("PyTorchJob", run), body, MANAGER)

    def delete(self, run: str, timeout: float, uid: str | None = None) -> None:
        """Delete the job and wait until it and its pods are gone. NotFound, or TimedOut after `timeout` seconds.

        With uid only that very job: one of the same name that somebody created since is left alone.
        """
        deadline = time.monotonic() + timeout
        if uid is None:
            uid = str(self._api.get(f"delete {run}", self._path("PyTorchJob", run))["metadata"]["uid"])
        self._delete_uid(run, uid)
        this_run = {"fieldSelector": f"metadata.name={run}"}
        its_pods = {"labelSelector": f"{LABEL_JOB_NAME}={run}"}
        for kind, query in (("PyTorchJob", this_run), ("Pod", its_pods)):
            left = self._until_gone(kind, query, uid, deadline)
            if left:
                raise TimedOut(
                    f"{run} is being deleted, but after {timeout:.0f} s there is still {', '.join(left[:5])}; "
                    f"see what holds it: {self._connection.kubectl} -n {self.namespace} describe {left[0]}"
                )

    def _delete_uid(self, run: str, uid: str) -> None:
        """Ask for the deletion of that very job; gone or replaced already is fine."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        try:
            self._api.delete(f"delete {run}", self._path("PyTorchJob", run), options)
        except (NotFound, Refused) as refusal:
            try:
                job = self.get_job(run)
            except Refused:  # no right to read it either
                raise refusal from None
            if job is not None and job["metadata"]["uid"] == uid:
                raise

    def watch_job(self, run: str, timeout: float) -> Iterator[Manifest | None]:
        """The job now and after every change, for at most `timeout` seconds; None once it is gone."""
        query = {"fieldSelector": f"metadata.name={run}"}
        seen = ""
        for jobs in snapshots(self._api, f"watch {run}", self._path("PyTorchJob"), query, timeout):
            if not jobs:
                yield None
                return
            version = str(jobs[-1]["metadata"]["resourceVersion"])
            if version != seen:
                seen = version
                yield _typed(jobs[-1], "PyTorchJob")

    def log_lines(
        self, pod: str, follow: bool, since: str | None, tail: int | None = None
    ) -> Iterator[tuple[str, str]]:
        """(RFC 3339 time, text) of every line since `since`; with follow until the container ends."""
        return lines(self._api, self._path("Pod", pod), follow, Given(since, tail))

    def files(self, run: str) -> AbstractContextManager[RunFiles]:
        """The run's folder on the runs volume, through a reader pod made from the job's own template."""
        from kctl.backends.cluster.files import reader_files

        return reader_files(self._api, self._path("Pod"), self._known_job(run), self.list_pods(run))

    def folders(self, jobs: Sequence[Manifest]) -> AbstractContextManager[Mapping[str, RunFiles]]:
        """The folders of several runs, by run; one reader pod a volume, made from one of its jobs."""
        from kctl.backends.cluster.files import folders_of

        pods = _items(self._api.get("list pods", self._path("Pod"), {"labelSelector": LABEL_JOB_NAME}), "Pod")
        return folders_of(self._api, self._path("Pod"), jobs, pods)

    def work(self, run: str, work: Work) -> Iterator[str]:
        """Run a program in a pod made from the job's own template, to its end; the pod goes on without its reader."""
        from kctl.backends.cluster.work_pod import work_pod, worked

        return worked(self._api, self._path("Pod"), work_pod(self._known_job(run), work))

    def erase(self, run: str) -> None:
        """Remove the run's folder from the runs volume, by a pod made from the job's own template."""
        from kctl.backends.cluster.pod_life import ended
        from kctl.backends.cluster.volume_pod import eraser_pod

        ended(self._api, self._path("Pod"), eraser_pod(self._known_job(run), self.list_pods(run)))

    def volume(self, job: Manifest, mount: str, one_node: bool) -> AbstractContextManager[Volume]:
        """The volume that the pods of a rendered job have at `mount`, through a pod of their own kind."""
        return writable(self._api, self._path("Pod"), job, mount, one_node)

    def forget(self, run: str) -> None:
        """Delete the run's ConfigMaps."""
        query = {"labelSelector": f"{LABEL_RUN}={run}"}
        for item in _items(self._api.get(f"list ConfigMaps of {run}", self._path("ConfigMap"), query), "ConfigMap"):
            with contextlib.suppress(NotFound):
                self._api.delete(f"delete ConfigMap {_name(item)}", self._path("ConfigMap", _name(item)), {})

    def _known_job(self, run: str) -> Manifest:
        job = self.get_job(run)
        if job is None:
            raise NotFound(f"there is no job {run} {self.where}, and its volume is known by it; see: kctl list")
        return job

    def _path(self, kind: str, name: str | None = None) -> str:
        prefix, plural = next(place for (_, known), place in RESOURCES.items() if known == kind)
        return f"{prefix}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def _post(self, manifest: Manifest, query: dict[str, str]) -> Manifest:
        kind, name = str(manifest["kind"]), _name(manifest)
        if (manifest["apiVersion"], kind) not in RESOURCES:
            raise UsageError(f"kctl creates no {kind} of {manifest['apiVersion']}; apply it with kubectl")
        return self._api.post(f"create {kind} {name}", self._path(kind), manifest, MANAGER | query)

    def _compare(self, manifest: Manifest) -> None:
        """The ConfigMap that is there holds the same; Refused otherwise."""
        name = _name(manifest)
        live = self._api.get(f"read ConfigMap {name}", self._path("ConfigMap", name))
        for field in ("data", "binaryData"):
            if (live.get(field) or {}) != (manifest.get(field) or {}):
                raise Refused(
                    f"ConfigMap {name} exists {self.where} with another content; its name is the hash of what it "
                    "should hold, so somebody changed it: delete it and submit again"
                )

    def _until_gone(self, kind: str, query: dict[str, str], uid: str, deadline: float) -> list[str]:
        """Wait until no matching object of this job is left; `kind/name` of those that stayed to the deadline."""
        present: list[str] = []
        timeout = max(1.0, deadline - time.monotonic())
        for objects in snapshots(self._api, f"wait for the end of {kind}", self._path(kind), query, timeout):
            present = [f"{kind.lower()}/{_name(item)}" for item in objects if _belongs(item, uid)]
            if not present:
                break
        return present


def _items(found: Manifest, kind: str) -> list[Manifest]:
    return [_typed(item, kind) for item in found.get("items") or []]


def _typed(item: Manifest, kind: str) -> Manifest:
    """A list leaves kind and apiVersion out of the items of built-in types."""
    version = next(version for version, known in RESOURCES if known == kind)
    return {"apiVersion": version, "kind": kind, **item}


def _belongs(item: Manifest, uid: str) -> bool:
    """The job itself or something that it owns, but not a new job of the same name."""
    owners: list[dict[str, Any]] = item["metadata"].get("ownerReferences") or []
    return uid in (item["metadata"]["uid"], *(owner.get("uid") for owner in owners))


def _name(item: Manifest) -> str:
    return str(item["metadata"]["name"])


def _created(item: Manifest) -> str:
    return str(item["metadata"].get("creationTimestamp", ""))
