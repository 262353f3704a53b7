"""Causes before there are pods: the job itself, and its queue.

Words of Kueue: apis/kueue/v1beta2/workload_types.go; reasons of old versions are Pending and Inadmissible, so the
messages count.
"""

from kctl.backends.facts import Facts
from kctl.backends.run_view import condition
from kctl.explain.cause import Cause, Seen, says
from kctl.manifest import LABEL_QUEUE
from trainer.schema.contract import Phase

OPERATOR = "{cluster} get pods -A -l control-plane=kubeflow-training-operator"
SILENT_SECONDS = 60.0
"""An operator, a queue or a scheduler that is there has said something by then."""

_workload = Facts.workload_says


def cancelled(facts: Facts) -> Seen | None:
    """Somebody typed `kctl cancel`, or set the same."""
    return (
        Seen({"state": "its pods still save" if not facts.view.settled else "its pods are gone"})
        if (facts.view.phase is Phase.CANCELLED)
        else None
    )


def deleting(facts: Facts) -> Seen | None:
    """The job is being deleted: its finalizers or pods are what is left."""
    if not facts.view.deleting:
        return None
    held = ", ".join(facts.job["metadata"].get("finalizers") or []) or "none"
    return Seen({"held": held}, (f"job: deleted at {facts.job['metadata']['deletionTimestamp']}, finalizers: {held}",))


def managed_elsewhere(facts: Facts) -> Seen | None:
    """Another controller was named, and the training operator leaves the job alone."""
    by = (facts.job["spec"].get("runPolicy") or {}).get("managedBy", "kubeflow.org/training-operator")
    idle = not _conditions(facts) and not facts.pods
    return Seen({"by": by}, (f"job: managedBy {by}",)) if idle and by != "kubeflow.org/training-operator" else None


def operator_silent(facts: Facts) -> Seen | None:
    """Nobody has written a condition, nor said that the pods are refused."""
    heard = any((event.get("involvedObject") or {}).get("kind") == "PyTorchJob" for event in facts.events)
    if heard or _conditions(facts) or facts.pods or facts.age < SILENT_SECONDS:
        return None
    return Seen(
        {"seconds": f"{facts.age:.0f}"}, (f"job: no conditions and no pods {facts.age:.0f} s after its creation",)
    )


def suspended(facts: Facts) -> Seen | None:
    """Suspended, and by neither kctl nor a queue."""
    if facts.view.phase is not Phase.QUEUED or LABEL_QUEUE in facts.labels:
        return None
    return Seen({}, ("job: spec.runPolicy.suspend is true, without a queue and without kctl's annotation",))


def queue_silent(facts: Facts) -> Seen | None:
    """In a queue by its label, suspended, and Kueue made no Workload."""
    if facts.view.phase is not Phase.QUEUED or facts.workloads != () or facts.age < SILENT_SECONDS:
        return None
    return _of_queue(facts, "is suspended and has no Workload")


def queue_ignored(facts: Facts) -> Seen | None:
    """In a queue by its label, and started without one."""
    if facts.view.phase not in (Phase.PENDING, Phase.RUNNING) or facts.workloads != ():
        return None
    return _of_queue(facts, "has no Workload and is not suspended")


def _of_queue(facts: Facts, what: str) -> Seen | None:
    queue = facts.labels.get(LABEL_QUEUE)
    return Seen({"queue": queue}, (f"job: names queue {queue}, {what}",)) if queue else None


def _conditions(facts: Facts) -> bool:
    kinds = ("Created", "Running", "Restarting", "Succeeded", "Failed", "Suspended")
    return any(condition(facts.job, kind) for kind in kinds)


def still_queued(facts: Facts) -> Seen | None:
    """Kueue has said nothing that this table knows."""
    return _of_queue(facts, "is suspended") if facts.view.phase is Phase.QUEUED else None


JOB = (
    Cause(
        "deleting",
        deleting,
        "the job is being deleted; what holds it: {held}",
        "{kubectl} get pytorchjob {run} -o yaml",
    ),
    Cause("cancelled", cancelled, "the run was cancelled; {state}", "{resume}"),
    Cause(
        "managed-elsewhere",
        managed_elsewhere,
        "the job is left to {by}, and nobody of that name has touched it",
        "remove managedBy from its manifest, then: kctl delete {run}{flags}; then {resume}",
    ),
    Cause(
        "operator-silent",
        operator_silent,
        "the training operator has not touched the job for {seconds} s: it is away, or cannot reach the API server",
        OPERATOR,
    ),
    Cause(
        "suspended",
        suspended,
        "somebody suspended the job, without a queue that would start it again",
        '{kubectl} patch pytorchjob {run} --type=merge -p \'{{"spec":{{"runPolicy":{{"suspend":false}}}}}}\'',
    ),
)
QUEUE = (
    Cause(
        "queue-deactivated",
        says(_workload, r"Evicted=True \S*Deactivated"),
        "Kueue deactivated the run, after too many attempts to start it or by somebody's hand",
        "kctl cancel {run}{flags}; then {resume}",
    ),
    Cause(
        "queue-absent",
        says(_workload, r"QuotaReserved=False .*LocalQueue (?P<queue>\S+) doesn't exist"),
        "there is no LocalQueue {queue} in the namespace",
        "{kubectl} get localqueues; then name one of them in queue of the cluster profile",
    ),
    Cause(
        "queue-inactive",
        says(
            _workload,
            r"QuotaReserved=False .*(?P<queue>(Local|Cluster)Queue \S+) (is inactive|doesn't exist|is stopped)",
        ),
        "{queue} takes no runs at the moment",
        "{kubectl} get localqueues -o wide; ask who runs Kueue",
    ),
    Cause(
        "queue-stopped",
        says(_workload, r"(Evicted=True|QuotaReserved=False) (?P<queue>ClusterQueue|LocalQueue)Stopped"),
        "the {queue} was stopped, and the run was taken out of it",
        "{kubectl} get localqueues -o wide; it starts again by itself when the queue does",
    ),
    Cause(
        "queue-too-large",
        says(
            _workload,
            r"QuotaReserved=False (ExceedsMaxQuota: (?P<what>.*)|.*insufficient quota for (?P<resource>\S+) in flavor "
            r"(?P<flavor>\S+),.*> maximum capacity)",
        ),
        "the run asks for more than its queue can ever give: it waits for ever",
        "kctl cancel {run}{flags}, then submit with fewer cluster.nodes or cluster.gpus_per_node",
    ),
    Cause(
        "queue-uncounted",
        says(_workload, r"QuotaReserved=False .*resource (?P<resource>\S+) unavailable in ClusterQueue"),
        "its queue has no quota at all for {resource}",
        "ask who runs Kueue to add {resource} to the ClusterQueue",
    ),
    Cause(
        "queue-no-flavor",
        says(
            _workload,
            r"QuotaReserved=False (NoMatchingFlavor: .*|.*flavor (?P<flavor>\S+) doesn't match node affinity"
            r"|.*untolerated taint .*in flavor (?P<tainted>\S+))",
        ),
        "no kind of node that its queue has fits the run's node_selector and tolerations",
        "{kubectl} get resourceflavors -o yaml; then change node_selector or tolerations of the cluster profile",
    ),
    Cause(
        "queue-topology",
        says(_workload, r"QuotaReserved=False (TopologyPlacementFailed|.*topology .* (allows|doesn't allow) to fit)"),
        "no part of the cluster's topology has room for all its pods together",
        "wait until others have ended, or submit with fewer cluster.nodes",
    ),
    Cause(
        "queue-preempted",
        says(_workload, r"Evicted=True \S*Preempted: (?P<why>.*)"),
        "a run of higher priority took its place; it saved, and starts again when there is room",
        "kctl wait {run}{flags}",
    ),
    Cause(
        "queue-slow-start",
        says(_workload, r"Evicted=True \S*PodsReadyTimeout"),
        "its pods did not start in the time that Kueue gives, and it was put back into the queue",
        "kctl logs {run}{flags}; a large image is pulled faster the second time",
    ),
    Cause(
        "queue-checks",
        says(_workload, r"Admitted=False UnsatisfiedAdmissionChecks|QuotaReserved=True.*AdmissionCheck"),
        "there is room, but a check of the queue (a node to be made, for example) is not done",
        "{kubectl} describe workloads",
    ),
    Cause(
        "queue-waits",
        says(
            _workload,
            r"QuotaReserved=False (WaitingForQuota|WaitingForPreemptedWorkloads|Pending\w*|Inadmissible): (?P<why>.*)",
        ),
        "the queue is full: {why}",
        "{kubectl} get workloads; it starts by itself",
    ),
    Cause(
        "queue-silent",
        queue_silent,
        "the run waits for queue {queue}, but Kueue has not taken notice of it: Kueue is away, or its integration of "
        "PyTorchJobs is off (it is by default from 0.19 on)",
        "{cluster} get pods -n kueue-system; then ask who runs Kueue",
    ),
    Cause(
        "queue-ignored",
        queue_ignored,
        "the run names queue {queue}, but started beside it: Kueue or its integration of PyTorchJobs is not there",
        "ask who runs Kueue to switch it on, or write queue: none into the cluster profile",
    ),
)
LAST_OF_QUEUE = (
    Cause("queued", still_queued, "the run waits for its turn in queue {queue}", "{kubectl} describe workloads"),
)
