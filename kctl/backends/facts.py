"""What is known of one run at one moment, for saying why it is as it is. A snapshot: it asks nobody.

Objects are dicts in the shape of the Kubernetes API, as both backends give them. None stands for what was not looked at
or could not be seen; an empty tuple for what is not there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from kctl.backends.run_view import RunView, event_time, newest_warning, pod_view, pods_wanted, run_view
from kctl.manifest import Manifest, pod_of, requests_of
from trainer.schema.contract import Phase
from trainer.schema.redaction import line_by_line, redacted

LOG_TAIL = 200
"""Last lines of a log that are looked at."""
LINE_LIMIT = 500
"""Characters of a line that are looked at or shown: what the trainer says begins with it."""
FRESH = timedelta(minutes=15)
"""An older event is history: what still goes wrong is said again within minutes (a pull's back-off ends at five)."""


@dataclass(frozen=True)
class Said:
    """What somebody said of something: `pod x` with its words."""

    about: str
    words: str

    @property
    def line(self) -> str:
        """As evidence: one line, without credentials, cut."""
        return redacted(f"{self.about}: {' '.join(self.words.split())}")[:LINE_LIMIT]


@dataclass(frozen=True)
class Facts:
    """One run with all that surrounds it."""

    now: datetime
    job: Manifest
    pods: tuple[Manifest, ...] = ()
    events: tuple[Manifest, ...] = ()
    """About the job, its pods and its claims."""
    claims: tuple[Manifest, ...] | None = None
    """All of the namespace."""
    nodes: tuple[Manifest, ...] | None = None
    """All where a pod has none yet, else those of the pods."""
    workloads: tuple[Manifest, ...] | None = None
    """Kueue's of this job, where it names a queue; none without Kueue."""
    pod_group: Manifest | None = None
    """Volcano's."""
    log: tuple[tuple[str, str], ...] = ()
    """(RFC 3339 time, text) of the last lines of the pod that has most to say, as `last_lines` leaves them."""
    unseen: tuple[str, ...] = ()
    """What could not be looked at, and why."""
    kubectl: str = "kubectl"
    """How kubectl is asked about the same cluster."""

    @cached_property
    def view(self) -> RunView:
        """The run as `kctl status` shows it."""
        view = run_view(self.job, self.pods)
        if view.phase is Phase.PENDING and not view.pods and not view.sentence:
            about = [one for one in self.events if one["involvedObject"].get("uid") == view.uid]
            return replace(view, sentence=newest_warning(one for one in about if one.get("type") == "Warning"))
        return view

    @cached_property
    def labels(self) -> dict[str, str]:
        """Of the job."""
        return self.job["metadata"].get("labels") or {}

    @cached_property
    def template(self) -> Manifest:
        """The spec of its pods, as the job has it."""
        return pod_of(self.job)

    @cached_property
    def wanted(self) -> dict[str, str]:
        """What one pod asks for: resource -> quantity."""
        return requests_of(self.template)

    @cached_property
    def claimed(self) -> tuple[str, ...]:
        """Names of the claims that its pods mount."""
        volumes = [one.get("persistentVolumeClaim") for one in self.template.get("volumes") or []]
        return tuple(dict.fromkeys(str(one["claimName"]) for one in volumes if one))

    @cached_property
    def short_of_pods(self) -> bool:
        """True while pods are missing that the operator should have made."""
        return len(self.pods) < pods_wanted(self.job)

    @cached_property
    def age(self) -> float:
        """Seconds since the job was made."""
        return self.since(self.view.created)

    def since(self, moment: str) -> float:
        """Seconds from an RFC 3339 time to now; 0 where that is none."""
        try:
            return max(0.0, (self.now - datetime.fromisoformat(moment)).total_seconds())
        except (ValueError, TypeError):
            return 0.0

    # ------------------------------------------------------------------------------------------------------------------
    # what was said, each in the order in which it should be believed

    def pod_waits(self) -> Iterator[Said]:
        """What the containers of pods that have not started wait for: `REASON: message`."""
        for pod in self.pods:
            for container in _statuses(pod):
                waiting = (container.get("state") or {}).get("waiting") or {}
                if waiting:
                    words = ": ".join(filter(None, [waiting.get("reason"), waiting.get("message")]))
                    yield Said(f"pod {pod['metadata']['name']}", words)

    def pod_ends(self) -> Iterator[Said]:
        """How pods ended that are still there: `REASON: message`, of the pod and of its container."""
        for pod in self.pods:
            status, name = pod.get("status") or {}, f"pod {pod['metadata']['name']}"
            if status.get("reason") or status.get("phase") == "Failed":
                yield Said(name, ": ".join(filter(None, [status.get("reason"), status.get("message")])))
            for container in _statuses(pod):
                ended = (container.get("state") or {}).get("terminated") or {}
                if ended.get("reason"):
                    yield Said(name, ": ".join(filter(None, [ended["reason"], ended.get("message")])))

    def disruptions(self) -> Iterator[Said]:
        """Why somebody takes a pod away: `REASON: message` of its condition DisruptionTarget."""
        for pod in self.pods:
            for one in _conditions(pod):
                if one.get("type") == "DisruptionTarget" and one.get("status") == "True":
                    words = f"{one.get('reason', '')}: {one.get('message', '')}"
                    yield Said(f"pod {pod['metadata']['name']}", words)

    def unplaced(self) -> Iterator[Said]:
        """What the scheduler says of pods that have no node."""
        for pod in self.pods:
            for one in _conditions(pod):
                if one.get("type") == "PodScheduled" and one.get("status") == "False":
                    words = f"{one.get('reason', '')}: {one.get('message', '')}"
                    yield Said(f"pod {pod['metadata']['name']}", words)

    def job_events(self) -> Iterator[Said]:
        """Events about the job, the newest first, those of any age: it is made anew for each submit."""
        yield from self._events("PyTorchJob", {self.view.run}, None)

    def refusals(self) -> Iterator[Said]:
        """Why pods were not made, while some are missing."""
        if self.short_of_pods:
            yield from (
                one for one in self._events("PyTorchJob", {self.view.run}, FRESH) if one.words.startswith("Failed")
            )

    def pod_events(self) -> Iterator[Said]:
        """Fresh warnings about pods that have not started, the newest first."""
        names = {pod["metadata"]["name"] for pod in self.pods if (pod.get("status") or {}).get("phase") == "Pending"}
        yield from self._events("Pod", names, FRESH)

    def claim_events(self) -> Iterator[Said]:
        """Fresh events about its claims that are not bound."""
        bound = {
            one["metadata"]["name"] for one in self.claims or () if (one.get("status") or {}).get("phase") == "Bound"
        }
        yield from self._events("PersistentVolumeClaim", set(self.claimed) - bound, FRESH)

    def log_lines(self) -> Iterator[Said]:
        """The last lines of the log, the newest first."""
        for _, text in reversed(self.log):
            yield Said("log", text)

    def workload_says(self) -> Iterator[Said]:
        """Conditions of Kueue's Workload that keep the job waiting: `TYPE=STATUS REASON: message`."""
        for workload in self.workloads or ():
            name = f"workload {workload['metadata']['name']}"
            for one in _conditions(workload):
                words = f"{one.get('type')}={one.get('status')} {one.get('reason', '')}: {one.get('message', '')}"
                yield Said(name, words)

    def _events(self, kind: str, names: set[str], fresh: timedelta | None) -> Iterator[Said]:
        about = [one for one in self.events if one["involvedObject"].get("kind") == kind]
        for one in sorted(about, key=event_time, reverse=True):
            name, moment = one["involvedObject"].get("name"), event_time(one)
            if name in names and (fresh is None or self.since(moment) <= fresh.total_seconds()):
                short = {"PyTorchJob": "job", "PersistentVolumeClaim": "claim"}.get(kind, kind.lower())
                yield Said(f"event of {short} {name}", f"{one.get('reason', '')}: {one.get('message', '')}")


def last_lines(lines: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Lines of a log without credentials, each cut."""
    clean = line_by_line()
    return tuple((moment, clean(text)[:LINE_LIMIT]) for moment, text in lines)


def pod_with_log(pods: Iterable[Manifest]) -> str | None:
    """The pod whose log explains most: one that failed, else the first that runs or ran."""
    begun = [view for pod in pods if (view := pod_view(pod)).started]
    failed = [view for view in begun if view.code]
    return min(failed or begun, key=lambda view: (view.index, view.name)).name if begun else None


def _statuses(pod: Manifest) -> Iterable[Manifest]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _conditions(thing: Manifest) -> list[Manifest]:
    return list((thing.get("status") or {}).get("conditions") or [])
