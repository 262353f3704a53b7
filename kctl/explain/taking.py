"""Causes of an end that came from outside: who took the pod away.

Words: Kubernetes 1.34, pkg/kubelet (eviction, lifecycle, nodeshutdown) and the reasons of DisruptionTarget.
"""

from kctl.backends.facts import Facts
from kctl.explain.cause import Cause, Seen, either, says
from kctl.manifest import Manifest

_ends, _taken = Facts.pod_ends, Facts.disruptions


def node_away(facts: Facts) -> Seen | None:
    """A pod's node does not answer."""
    of = {str((pod.get("spec") or {}).get("nodeName")): pod["metadata"]["name"] for pod in facts.pods}
    for node in facts.nodes or ():
        name, conditions = node["metadata"]["name"], (node.get("status") or {}).get("conditions") or []
        ready: Manifest = next((one for one in conditions if one.get("type") == "Ready"), {})
        if name in of and ready.get("status") in ("False", "Unknown"):
            shown = f"node {name}: {ready.get('reason', 'not ready')} since {ready.get('lastTransitionTime', '?')}"
            return Seen({"node": name, "pod": of[name]}, (shown,))
    return None


def stuck_ending(facts: Facts) -> Seen | None:
    """A pod should be gone for longer than its grace."""
    for pod in facts.pods:
        metadata = pod["metadata"]
        late = facts.since(metadata.get("deletionTimestamp") or "")  # the time by which it should be gone
        if late > 60:
            held = ", ".join(metadata.get("finalizers") or []) or "none"
            shown = f"pod {metadata['name']}: to be gone {late:.0f} s ago, finalizers: {held}"
            return Seen({"pod": metadata["name"]}, (shown,))
    return None


def left_behind(facts: Facts) -> Seen | None:
    """The run has ended and a pod of it has not."""
    active = [pod.name for pod in facts.view.pods if pod.active]
    return (
        Seen({"pod": active[0]}, (f"pod {active[0]}: still there",)) if active and facts.view.phase.finished else None
    )


TAKEN = (
    Cause(
        "node-away",
        node_away,
        "node {node}, where pod {pod} is, does not answer",
        "{cluster} describe node {node}; the pod is made anew when Kubernetes gives it up",
    ),
    Cause(
        "out-of-host-memory",
        says(_ends, r"^OOMKilled"),
        "the pod used more host memory than its limit and was killed; it starts again, and is killed again",
        "raise memory in the cluster profile, then: kctl cancel {run}{flags}; then {resume}",
    ),
    Cause(
        "shm-full",
        says(_ends, r'Evicted: .*Usage of EmptyDir volume "(?P<volume>[^"]+)" exceeds the limit "(?P<limit>[^"]+)"'),
        "volume {volume} of the pod grew over its limit of {limit}, and the kubelet ended the pod",
        "raise shm in the cluster profile, then: kctl cancel {run}{flags}; then {resume}",
    ),
    Cause(
        "local-storage",
        says(_ends, r"Evicted: .*(ephemeral local storage usage exceeds|exceeded its local ephemeral storage limit).*"),
        "the pod wrote more to its node's disk than it may, and the kubelet ended it",
        "raise the limit ephemeral-storage in pod_patch of the cluster profile; it starts again by itself",
    ),
    Cause(
        "evicted",
        says(_ends, r"Evicted: .*The node (was low on resource|had condition): \[?(?P<resource>[\w-]+)"),
        "the pod's node ran out of {resource}, and the kubelet ended pods",
        "{cluster} describe nodes; it starts again by itself",
    ),
    Cause(
        "preempted",
        either(says(_taken, r"^PreemptionByScheduler"), says(_ends, r"^Preempting|Preempted")),
        "a pod of higher priority took its place; it saved, and starts again when there is room",
        "kctl wait {run}{flags}; or set cluster.priority",
    ),
    Cause(
        "drained",
        says(_taken, r"^EvictionByEvictionAPI"),
        "somebody drains the node or evicted the pod; it saved, and starts again elsewhere",
        "{cluster} get nodes",
    ),
    Cause(
        "node-lost",
        either(says(_taken, r"^(DeletionByTaintManager|DeletionByPodGC)"), says(_ends, r"^NodeLost")),
        "the pod's node was lost or tainted, and Kubernetes gave the pod up; it starts again elsewhere",
        "{cluster} get nodes",
    ),
    Cause(
        "node-shut-down",
        either(says(_taken, r"^TerminationByKubelet"), says(_ends, r"^(NodeShutdown|Terminated|Shutdown)\b")),
        "the pod's node shut down or took its resources back; it starts again elsewhere",
        "{cluster} get nodes",
    ),
    Cause(
        "device-not-given",
        says(_ends, r"^UnexpectedAdmissionError: (?P<why>.+)"),
        "the node had promised a device that it could not give: {why}",
        "{cluster} get pods -A -o wide; ask who runs the nodes to look at the device plugin",
    ),
    Cause(
        "node-refused",
        says(_ends, r"^(OutOf(?P<resource>\w+)|NodeAffinity|NodePorts|NodeName)\b"),
        "the node refused the pod that the scheduler had sent it: others were faster",
        "kctl wait {run}{flags}; it starts again by itself",
    ),
    Cause(
        "stuck-ending",
        stuck_ending,
        "pod {pod} should be gone and is not: its node does not answer, or a finalizer holds it",
        "{kubectl} describe pod {pod}",
    ),
)
LEFT = (
    Cause(
        "pods-left",
        left_behind,
        "the run is {phase}, and pod {pod} still ends: it saves, within its grace",
        "kctl wait {run}{flags}",
    ),
)
