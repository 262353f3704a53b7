"""Reading what explains a run: few requests, side by side, and each only where the answer can matter.

What one has no right to see is said in Facts.unseen and holds nothing up: only the job and its pods are needed.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from kctl.backends.cluster.api import READ_SECONDS, Api
from kctl.backends.cluster.logs import Given, decoded_lines, lines
from kctl.backends.cluster.queues import LABEL_JOB_UID, VOLCANO, kueue_path
from kctl.backends.facts import LOG_TAIL, Facts, last_lines, pod_with_log
from kctl.errors import NotFound, Refused, Unreachable
from kctl.manifest import LABEL_QUEUE, Manifest
from trainer.schema.contract import CONTAINER

MOST_PODS = 4
"""Pods whose events are read, and nodes of pods: those of one run wait for the same."""
MOST_NODES = 500
BEGINNING = 8192
"""Bytes of a long log's beginning that are read."""


@dataclass(frozen=True)
class Seeker:
    """Who asks about a run of which job and pods are known."""

    api: Api
    namespace: str
    known: Facts

    def events(self) -> tuple[Manifest, ...]:
        """About the job, and about the first pods that have not started."""
        waiting = [pod for pod in self.known.pods if _phase(pod) == "Pending"][:MOST_PODS]
        found = [self._events(f"involvedObject.uid={one['metadata']['uid']}") for one in (self.known.job, *waiting)]
        return tuple(event for events in found for event in events)

    def claims(self) -> tuple[Manifest, ...] | None:
        """Those of the namespace, where the scheduler speaks of volumes."""
        return self._listed("claims", f"{self._core}/persistentvolumeclaims") if self._told("olume") else None

    def claim_events(self) -> tuple[Manifest, ...]:
        """About claims, where the scheduler speaks of them."""
        return self._events("involvedObject.kind=PersistentVolumeClaim") if self._told("olume") else ()

    def nodes(self) -> tuple[Manifest, ...] | None:
        """All where the scheduler says what is wrong with them; those of pods that are not well."""
        if any(map(self._told, ("Insufficient", "taint", "selector", "unschedulable"))):
            return self._listed("nodes", "/api/v1/nodes", limit=str(MOST_NODES))
        placed = [pod for pod in self.known.pods if _unwell(pod) and pod["spec"].get("nodeName")]
        names = sorted({str(pod["spec"]["nodeName"]) for pod in placed})[:MOST_PODS]
        return tuple(self.api.get(f"read node {name}", f"/api/v1/nodes/{name}") for name in names) or None

    def workloads(self) -> tuple[Manifest, ...] | None:
        """Kueue's, of a job that names a queue; none where there is no Kueue."""
        if LABEL_QUEUE not in self.known.labels:
            return None
        try:
            path = kueue_path(self.api, self.namespace, "workloads")
        except NotFound:
            return ()
        return self._listed("workloads", path, labelSelector=f"{LABEL_JOB_UID}={self.known.view.uid}")

    def pod_group(self) -> Manifest | None:
        """Volcano's, of a job for it."""
        if self.known.template.get("schedulerName") != "volcano":
            return None
        run = self.known.view.run
        try:
            return self.api.get(f"read PodGroup {run}", f"{VOLCANO}/namespaces/{self.namespace}/podgroups/{run}")
        except NotFound:
            return None

    def log(self) -> tuple[tuple[str, str], ...]:
        """The last lines of the pod that has most to say."""
        name = pod_with_log(self.known.pods)
        if name is None:
            return ()
        path = f"{self._core}/pods/{name}"
        try:
            last = last_lines(lines(self.api, path, False, Given(None, LOG_TAIL)))
            if len(self.known.pods) == 1 or len(last) < LOG_TAIL:
                return last
            return (*(line for line in last_lines(self._first_lines(path)) if line[0] < last[0][0]), *last)
        except NotFound:
            return ()

    def _first_lines(self, path: str) -> Iterator[tuple[str, str]]:
        """Of several nodes the first line says what they talk over."""
        query = {"container": CONTAINER, "timestamps": "true", "limitBytes": str(BEGINNING)}
        blocks = decoded_lines(self.api.stream("read the beginning of a log", f"{path}/log", query, READ_SECONDS))
        given = Given(None)
        for block in blocks:
            yield from given.take(block)

    @property
    def _core(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}"

    def _listed(self, what: str, path: str, **query: str) -> tuple[Manifest, ...]:
        action = f"list {what} for {self.known.view.run}"
        return tuple(self.api.get(action, path, query).get("items") or ())

    def _events(self, selector: str) -> tuple[Manifest, ...]:
        return self._listed("events", f"{self._core}/events", fieldSelector=selector)

    def _told(self, word: str) -> bool:
        return any(word in said.words for said in self.known.unplaced())


def gathered(api: Api, namespace: str, job: Manifest, pods: tuple[Manifest, ...]) -> Facts:
    """All that is known of the run now."""
    known = Facts(api.now, job, pods, kubectl=api.connection.kubectl)
    seeker = Seeker(api, namespace, known)
    asked: dict[str, Callable[[], Any]] = {
        "events": seeker.events,
        "events of claims": seeker.claim_events,
        "claims": seeker.claims,
        "nodes": seeker.nodes,
        "workloads": seeker.workloads,
        "podgroup": seeker.pod_group,
        "log": seeker.log,
    }
    with ThreadPoolExecutor(max_workers=len(asked)) as pool:
        answers = {name: pool.submit(_tried, name, ask) for name, ask in asked.items()}
        found = {name: answer.result() for name, answer in answers.items()}
    return replace(
        known,
        events=(*(found["events"][0] or ()), *(found["events of claims"][0] or ())),
        claims=found["claims"][0],
        nodes=found["nodes"][0],
        workloads=found["workloads"][0],
        pod_group=found["podgroup"][0],
        log=found["log"][0] or (),
        unseen=tuple(why for _, why in found.values() if why),
    )


def _tried(name: str, ask: Callable[[], Any]) -> tuple[Any, str]:
    """(answer, why there is none): what is not needed for the rest may fail."""
    try:
        return ask(), ""
    except (NotFound, Refused, Unreachable) as error:
        return None, f"{name}: {str(error).partition('; ')[0]}"


def _phase(pod: Manifest) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def _unwell(pod: Manifest) -> bool:
    """It runs and is not ready, or should be gone: then its node may be away."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    return "deletionTimestamp" in pod["metadata"] or (_phase(pod) == "Running" and not ready)
