"""What people see of a run, derived from its PyTorchJob and pods: one view for both backends. Talks to nobody.

Words of others, such as a pod's last ones or an event's, are shown without what looks like a credential.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kctl.manifest import Manifest
from trainer.schema.contract import (
    ANNOTATION_CANCELLED,
    ANNOTATION_MANIFEST,
    CONTAINER,
    LABEL_CONFIG,
    LABEL_REPLICA_INDEX,
    TAG_PREFIX,
    Phase,
)
from trainer.schema.messages import Message, parse_message
from trainer.schema.redaction import redacted

ANNOTATION_LIFE = "kctl.dev/life"
"""Which life of its pod this one is, from 1. Only the local backend knows it and sets it."""


@dataclass(frozen=True)
class PodView:
    """One pod: its Kubernetes phase, what it waits for, and how it ended."""

    name: str
    phase: str
    index: int
    life: int | None
    code: int | None
    message: Message
    reason: str
    started: str
    """When its container started (RFC 3339); empty where it has not."""

    @property
    def active(self) -> bool:
        """True while it runs or may still start."""
        return self.phase not in ("Succeeded", "Failed")


@dataclass(frozen=True)
class RunView:
    """One run, as status and list show it. step, loss and what follows from a log are None until
    something told them."""

    run: str
    config: str
    phase: Phase
    step: int | None
    steps: int | None
    loss: float | None
    eta_s: float | None
    code: int | None
    sentence: str
    attempt: int | None
    created: str
    ended: str
    """RFC 3339; empty while it goes on."""
    uid: str
    manifest_sha256: str
    grace_seconds: int
    deleting: bool
    pods: tuple[PodView, ...]
    tokens_per_s: float | None = None
    mem_gib: float | None = None

    @property
    def settled(self) -> bool:
        """True where nothing happens any more: finished, and no pod is left running."""
        return self.phase.finished and not any(pod.active for pod in self.pods)


def pod_view(pod: Manifest) -> PodView:
    """One pod as far as kctl looks at it."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    statuses = status.get("containerStatuses") or []
    container: Manifest = next((one for one in statuses if one.get("name") == CONTAINER), {})
    state = container.get("state") or {}
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    life = (metadata.get("annotations") or {}).get(ANNOTATION_LIFE, "")
    index = (metadata.get("labels") or {}).get(LABEL_REPLICA_INDEX, "0")
    message = parse_message(ended.get("message") or "")
    return PodView(
        name=metadata["name"],
        phase=status.get("phase") or "Pending",
        index=int(index) if index.isdigit() else 0,
        life=int(life) if life.isdigit() else None,
        code=(state.get("terminated") or {}).get("exitCode"),
        message=replace(message, sentence=message.sentence and redacted(message.sentence)),
        reason=redacted(reason) if (reason := _reason(status, state, ended)) else "",
        started=(state.get("running") or state.get("terminated") or {}).get("startedAt") or "",
    )


def _reason(status: Manifest, state: Manifest, ended: Manifest) -> str:
    """What a pod waits for or was ended by, as far as the cluster says."""
    waiting = state.get("waiting") or {}
    placed: Manifest = next((one for one in status.get("conditions") or [] if one.get("type") == "PodScheduled"), {})
    said = [waiting.get("message"), waiting.get("reason"), status.get("message"), status.get("reason")]
    return str(next(filter(None, [*said, ended.get("reason"), placed.get("message")]), ""))


def pods_wanted(job: Manifest) -> int:
    """How many pods the job has when all are there; they may not be yet."""
    replicas = ((job.get("spec") or {}).get("pytorchReplicaSpecs") or {}).values()
    return sum(int(spec.get("replicas", 1)) for spec in replicas)


def ranks_per_pod(job: Manifest) -> int:
    """Processes that torchrun starts in each pod."""
    told = str((job.get("spec") or {}).get("nprocPerNode", ""))
    return int(told) if told.isdigit() and int(told) else 1


def run_view(job: Manifest, pods: Sequence[Manifest]) -> RunView:
    """The run that `job` and its pods tell of, with a phase of our own: the operator's says Running too early."""
    metadata, spec = job["metadata"], job.get("spec") or {}
    views = tuple(sorted((pod_view(pod) for pod in pods), key=lambda pod: (pod.index, pod.name)))
    annotations = metadata.get("annotations") or {}
    phase = _phase(job, views)
    teller = _teller(views)
    message = teller.message if teller else Message()
    return RunView(
        run=metadata["name"],
        config=(metadata.get("labels") or {}).get(LABEL_CONFIG, ""),
        phase=phase,
        step=message.step,
        steps=message.steps,
        loss=message.loss,
        eta_s=None,
        code=teller.code if teller and teller.code is not None else message.code,
        sentence=redacted(_sentence(job, phase, teller, views)),
        attempt=message.attempt,
        created=metadata.get("creationTimestamp") or "",
        ended=_ended(job) if phase.finished else "",
        uid=metadata.get("uid") or "",
        manifest_sha256=annotations.get(ANNOTATION_MANIFEST, ""),
        grace_seconds=_grace(spec),
        deleting="deletionTimestamp" in metadata,
        pods=views,
    )


def tags_of(job: Manifest) -> list[str]:
    """The run's tags, sorted."""
    notes = job["metadata"].get("annotations") or {}
    return sorted(key.removeprefix(TAG_PREFIX) for key in notes if key.startswith(TAG_PREFIX))


def condition(job: Manifest, kind: str) -> Manifest | None:
    """The job's condition of that type where it is True."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind and one.get("status") == "True"), None)


def event_time(event: Manifest) -> str:
    """When it happened last (RFC 3339)."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(event.get("lastTimestamp") or series or event.get("eventTime") or event.get("firstTimestamp") or "")


def newest_warning(warnings: Iterable[Manifest]) -> str:
    """What the newest of these events says, in one line; empty where there is none."""
    newest = max(warnings, key=event_time, default={})
    return redacted(" ".join(str(newest.get("message", "")).split()))


def _ended(job: Manifest) -> str:
    ends = [one for kind in ("Succeeded", "Failed", "Suspended") if (one := condition(job, kind))]
    return str(next((one["lastTransitionTime"] for one in ends if one.get("lastTransitionTime")), ""))


def _phase(job: Manifest, pods: tuple[PodView, ...]) -> Phase:
    if condition(job, "Succeeded"):
        return Phase.SUCCEEDED
    if condition(job, "Failed"):
        return Phase.FAILED
    if ((job.get("spec") or {}).get("runPolicy") or {}).get("suspend"):
        cancelled = ANNOTATION_CANCELLED in (job["metadata"].get("annotations") or {})
        return Phase.CANCELLED if cancelled else Phase.QUEUED
    if condition(job, "Restarting") or any(pod.phase == "Failed" for pod in pods):
        return Phase.RESTARTING
    if not pods or any(pod.phase == "Pending" for pod in pods):
        return Phase.PENDING
    return Phase.RUNNING


def _teller(pods: tuple[PodView, ...]) -> PodView | None:
    """The pod whose end explains the run's: a permanent code before a retryable one before none."""

    def rank(pod: PodView) -> tuple[int, int]:
        code = pod.code if pod.code is not None else pod.message.code
        return (0 if code and 0 < code < 128 else 1 if code else 2, 0 if pod.message.sentence else 1)

    told = [pod for pod in pods if pod.code is not None or pod.message != Message()]
    return min(told, key=rank, default=None)


def _sentence(job: Manifest, phase: Phase, teller: PodView | None, pods: Sequence[PodView]) -> str:
    failed = condition(job, "Failed")
    if phase is Phase.FAILED and failed and not (teller and teller.code and teller.code < 128):
        return failed.get("message") or "the job failed without a message"  # a retryable end does not fail a job
    if teller and teller.message.sentence:
        return teller.message.sentence
    if teller and teller.code:
        return f"pod {teller.name} ended with code {teller.code}{f' ({teller.reason})' if teller.reason else ''}"
    waiting = next((pod for pod in pods if pod.phase == "Pending" and pod.reason), None)
    if waiting is not None and not phase.finished:
        return f"pod {waiting.name} waits: {waiting.reason}"
    if phase is Phase.QUEUED:
        return (condition(job, "Suspended") or {}).get("message") or "waits for its queue"
    return ""


def _grace(spec: Manifest) -> int:
    replicas = (spec.get("pytorchReplicaSpecs") or {}).values()
    seconds = [((one.get("template") or {}).get("spec") or {}).get("terminationGracePeriodSeconds") for one in replicas]
    return max((value for value in seconds if isinstance(value, int)), default=30)
