"""What a node offers and whom it keeps away, as the scheduler counts it. Functions of a Node and of a pod's spec."""

from collections.abc import Iterable

from kctl.config.kubernetes_names import quantity
from kctl.manifest import Manifest


def matching(nodes: Iterable[Manifest], pod: Manifest) -> list[Manifest]:
    """Those with the labels that the pod's nodeSelector asks for."""
    wanted = (pod.get("nodeSelector") or {}).items()
    return [node for node in nodes if wanted <= (node["metadata"].get("labels") or {}).items()]


def offer(node: Manifest, resource: str) -> str:
    """How much of a resource it has for pods, as it is written there."""
    return str(((node.get("status") or {}).get("allocatable") or {}).get(resource, "0"))


def amount(text: object) -> float:
    """A quantity as a number; 0 for what is none."""
    try:
        return float(quantity(str(text)))
    except ValueError:
        return 0.0


def cordoned(node: Manifest) -> bool:
    """Somebody keeps new pods away from it."""
    return bool((node.get("spec") or {}).get("unschedulable"))


def keeps_away(node: Manifest, pod: Manifest) -> list[str]:
    """Taints of the node that the pod does not tolerate, as KEY or KEY=VALUE."""
    taints = [one for one in (node.get("spec") or {}).get("taints") or [] if one.get("effect") != "PreferNoSchedule"]
    return [
        f"{taint['key']}={taint.get('value', '')}".rstrip("=")
        for taint in taints
        if not any(_tolerates(toleration, taint) for toleration in pod.get("tolerations") or [])
    ]


def _tolerates(toleration: Manifest, taint: Manifest) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
