"""Reading what explains a run: few requests, side by side, and each only where the answer can matter.

What one has no right to see is said in Facts.unseen and holds nothing up: only the job and its pods are needed.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kctl.backends.cluster.api import Api
from kctl.backends.cluster.logs import Given, lines
from kctl.backends.cluster.queues import LABEL_JOB_UID, VOLCANO, kueue_path
from kctl.backends.cluster.volume_pod import LABEL_QUEUE
from kctl.backends.facts import LOG_TAIL, Facts, pod_with_log
from kctl.errors import NotFound, Refused, Unreachable
from kctl.manifest import Manifest

MOST_PODS = 4
"""Pods whose events are read: those of one run wait for the same."""
MOST_NODES = 500


@dataclass(frozen=True)
class Seeker:
    """Who asks about the job of one run."""

    api: Api
    namespace: str
    job: Manifest
    pods: tuple[Manifest, ...]

    def listed(self, what: str, path: str, **query: str) -> tuple[Manifest, ...]:
        """The items of a list."""
        action = f"list {what} for {self.job['metadata']['name']}"
        return tuple(self.api.get(action, path, query).get("items") or ())

    def _in_namespace(self, plural: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{plural}"

    def events(self) -> tuple[Manifest, ...]:
        """About the job, and about the first pods that have not started."""
        waiting = [pod for pod in self.pods if _phase(pod) == "Pending"][:MOST_PODS]
        found = [self._about(str(one["metadata"]["uid"])) for one in (self.job, *waiting)]
        return tuple(event for events in found for event in events)

    def _about(self, uid: str) -> tuple[Manifest, ...]:
        return self.listed("events", self._in_namespace("events"), fieldSelector=f"involvedObject.uid={uid}")

    def claims(self) -> tuple[Manifest, ...] | None:
        """Those of the namespace, where the scheduler speaks of volumes."""
        if not any("olume" in said for said in self._unplaced()):
            return None
        return self.listed("claims", self._in_namespace("persistentvolumeclaims"))

    def claim_events(self) -> tuple[Manifest, ...]:
        """About claims, where the scheduler speaks of them."""
        if not any("olume" in said for said in self._unplaced()):
            return ()
        kind = "involvedObject.kind=PersistentVolumeClaim"
        return self.listed("events of claims", self._in_namespace("events"), fieldSelector=kind)

    def nodes(self) -> tuple[Manifest, ...] | None:
        """All where the scheduler finds too little on them; those of pods that are not well."""
        if any("Insufficient" in said for said in self._unplaced()):
            return self.listed("nodes", "/api/v1/nodes", limit=str(MOST_NODES))
        names = {str(pod["spec"]["nodeName"]) for pod in self.pods if _unwell(pod) and pod["spec"].get("nodeName")}
        if not names:
            return None
        return tuple(self.api.get(f"read node {name}", f"/api/v1/nodes/{name}") for name in sorted(names)[:MOST_PODS])

    def workloads(self) -> tuple[Manifest, ...] | None:
        """Kueue's, of a job that names a queue; none where there is no Kueue."""
        if LABEL_QUEUE not in (self.job["metadata"].get("labels") or {}):
            return None
        try:
            path = kueue_path(self.api, self.namespace, "workloads")
        except NotFound:
            return ()
        return self.listed("workloads", path, labelSelector=f"{LABEL_JOB_UID}={self.job['metadata']['uid']}")

    def pod_group(self) -> Manifest | None:
        """Volcano's, of a job for it."""
        run, replicas = self.job["metadata"]["name"], (self.job["spec"].get("pytorchReplicaSpecs") or {}).values()
        if not any(one["template"]["spec"].get("schedulerName") == "volcano" for one in replicas):
            return None
        try:
            return self.api.get(f"read PodGroup {run}", f"{VOLCANO}/namespaces/{self.namespace}/podgroups/{run}")
        except NotFound:
            return None

    def log(self) -> tuple[tuple[str, str], ...]:
        """The last lines of the pod that has most to say."""
        name = pod_with_log(self.pods)
        if name is None:
            return ()
        path = f"{self._in_namespace('pods')}/{name}"
        try:
            return tuple(lines(self.api, path, False, Given(None, LOG_TAIL)))
        except NotFound:
            return ()

    def _unplaced(self) -> Iterable[str]:
        for pod in self.pods:
            for one in (pod.get("status") or {}).get("conditions") or []:
                if one.get("type") == "PodScheduled" and one.get("status") == "False":
                    yield str(one.get("message", ""))


def gathered(seeker: Seeker) -> Facts:
    """All that is known of the run now."""
    asked: dict[str, Callable[[], Any]] = {
        "events": seeker.events,
        "claims": seeker.claims,
        "events of claims": seeker.claim_events,
        "nodes": seeker.nodes,
        "workloads": seeker.workloads,
        "podgroup": seeker.pod_group,
        "log": seeker.log,
    }
    with ThreadPoolExecutor(max_workers=len(asked)) as pool:
        answers = {name: pool.submit(_tried, name, ask) for name, ask in asked.items()}
        found = {name: answer.result() for name, answer in answers.items()}
    context = seeker.api.connection.context
    return Facts(
        now=seeker.api.now,
        job=seeker.job,
        pods=seeker.pods,
        events=(*(found["events"][0] or ()), *(found["events of claims"][0] or ())),
        claims=found["claims"][0],
        nodes=found["nodes"][0],
        workloads=found["workloads"][0],
        pod_group=found["podgroup"][0],
        log=found["log"][0] or (),
        unseen=tuple(why for _, why in found.values() if why),
        kubectl=f"kubectl --context {context}" if context else "kubectl",
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
