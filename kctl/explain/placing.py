"""Causes while pods are there and have no node. The scheduler's words: Kubernetes 1.34, pkg/scheduler/framework."""

from kctl.backends.facts import Facts
from kctl.explain.cause import Cause, Seen, says
from kctl.explain.fitting import condition, held_back, short_of, taint, unmatched
from kctl.explain.nodes import cordoned
from kctl.explain.queueing import SILENT_SECONDS

_unplaced = Facts.unplaced


def ignored(facts: Facts) -> Seen | None:
    """No scheduler has looked at a pod."""
    for pod in facts.pods:
        spec, status, metadata = pod.get("spec") or {}, pod.get("status") or {}, pod["metadata"]
        seen = status.get("conditions") or status.get("containerStatuses") or spec.get("nodeName")
        waits = facts.since(metadata.get("creationTimestamp") or "")
        if not seen and status.get("phase") == "Pending" and waits > SILENT_SECONDS:
            scheduler = str(spec.get("schedulerName", "default-scheduler"))
            shown = f"pod {metadata['name']}: schedulerName {scheduler}, no condition PodScheduled after {waits:.0f} s"
            return Seen({"scheduler": scheduler}, (shown,))
    return None


def gang_waits(facts: Facts) -> Seen | None:
    """Volcano holds the group until all its pods have room."""
    status = (facts.pod_group or {}).get("status") or {}
    if status.get("phase") not in ("Pending", "Inqueue"):
        return None
    said = [one for one in status.get("conditions") or [] if one.get("type") == "Unschedulable"]
    why = str(said[-1].get("message", "")) if said else "its queue has no room"
    return Seen({"why": why}, (f"podgroup {facts.view.run}: {status['phase']}: {why}",))


def gang_absent(facts: Facts) -> Seen | None:
    """Volcano should place the pods, and nobody made a group for them."""
    if facts.template.get("schedulerName") != "volcano" or facts.pod_group is not None or facts.age < SILENT_SECONDS:
        return None
    if any(one.startswith("podgroup") for one in facts.unseen):
        return None
    return Seen({}, ("job: schedulerName volcano, and there is no PodGroup of its name",))


PLACING = (
    Cause(
        "gang-waits",
        gang_waits,
        "Volcano waits until all pods of the run have room: {why}",
        "{kubectl} describe podgroup {run}",
    ),
    Cause(
        "gang-absent",
        gang_absent,
        "the run is for Volcano, but the training operator made no PodGroup: it was started without "
        "--gang-scheduler-name=volcano",
        "{cluster} get deployments -A -l control-plane=kubeflow-training-operator -o yaml",
    ),
    Cause(
        "selector",
        unmatched,
        "no node has the labels that node_selector of the cluster profile asks for",
        "{cluster} get nodes --show-labels; then correct node_selector",
    ),
    Cause(
        "resource-nowhere",
        short_of("nowhere"),
        "no node offers {resource}: its device plugin does not run, or the resource has another name",
        "{cluster} describe nodes; then correct gpu.resource or rdma of the cluster profile",
    ),
    Cause(
        "resource-too-large",
        short_of("too-large"),
        "no node is that large: a pod asks for {wanted} {resource}, the largest node has {largest}",
        "submit with fewer cluster.gpus_per_node, or less cpu and memory in the cluster profile",
    ),
    Cause(
        "resource-busy",
        short_of("busy"),
        "other pods use the {resource}: a pod asks for {wanted}, no node has so much left",
        "{cluster} get pods -A -o wide; it starts by itself when one of them ends",
    ),
    Cause(
        "resource-short",
        short_of("unknown"),
        "no node has {wanted} {resource} left for a pod",
        "kctl list{flags}; it starts by itself when there is room",
    ),
    Cause(
        "pods-per-node",
        says(_unplaced, r"Too many pods"),
        "the nodes run as many pods as they may",
        "{cluster} get pods -A -o wide",
    ),
    Cause(
        "taint",
        held_back(
            r"untolerated taint \{(?!node(-role)?\.kubernetes\.io/)(?P<key>[^:}]+)(: ?(?P<value>[^}]*))?\}"
            r"|taints? that the pod didn't tolerate",
            taint,
        ),
        "nodes have a taint that the run does not tolerate: {key}",
        "add {{key: {key}, operator: Exists}} to tolerations of the cluster profile, if the run may go there",
    ),
    Cause(
        "nodes-cordoned",
        held_back(
            r"node\(s\) were unschedulable|untolerated taint \{node\.kubernetes\.io/unschedulable",
            lambda node, _: "cordoned" if cordoned(node) else "",
        ),
        "nodes are cordoned: somebody keeps new pods away from them",
        "{cluster} get nodes; then kubectl uncordon NODE",
    ),
    Cause(
        "nodes-not-ready",
        held_back(
            r"untolerated taint \{node\.kubernetes\.io/(?P<what>not-ready|unreachable|network-unavailable)",
            condition("not-ready", "unreachable", "network-unavailable"),
        ),
        "nodes are {what}",
        "{cluster} get nodes",
    ),
    Cause(
        "nodes-under-pressure",
        held_back(
            r"untolerated taint \{node\.kubernetes\.io/(?P<what>(disk|memory|pid)-pressure)",
            condition("disk-pressure", "memory-pressure", "pid-pressure"),
        ),
        "nodes have {what} and take no pods",
        "{cluster} describe nodes",
    ),
    Cause(
        "affinity",
        says(_unplaced, r"pod (?P<what>(anti-)?affinity|topology spread) (rules|constraints)"),
        "the pods' {what} leaves no node",
        "change it in pod_patch of the cluster profile",
    ),
    Cause(
        "scheduling-gate",
        says(_unplaced, r"^SchedulingGated"),
        "the pod has a scheduling gate that somebody must remove: a queue or a webhook put it there",
        "{kubectl} get pods -o jsonpath='{{.items[*].spec.schedulingGates}}'",
    ),
    Cause(
        "no-nodes",
        says(_unplaced, r"no nodes available|^[^:]*: 0/0 nodes"),
        "the cluster has no nodes",
        "{cluster} get nodes",
    ),
    Cause(
        "scheduler-silent",
        ignored,
        "no scheduler has looked at the pod: {scheduler} does not run",
        "{cluster} get pods -A -o wide",
    ),
    Cause(
        "unplaced",
        says(_unplaced, r"^\w*: (?P<why>.+)"),
        "no node takes the pod: {why}",
        "{kubectl} describe pod {name}",
    ),
)
