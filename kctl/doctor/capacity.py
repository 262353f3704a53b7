"""Checks of room: nodes and their devices, and quotas."""

from collections.abc import Iterator

from kctl.backends.survey import Survey
from kctl.doctor.finding import Finding, Wanted, fail, ok, unseen, warn
from kctl.errors import NotFound, Refused
from kctl.explain.nodes import amount, cordoned, keeps_away, matching, offer
from kctl.manifest import Manifest


def nodes(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """That as many nodes as the run needs are large enough, have its devices, and let it in."""
    if survey.nodes.value is None:
        yield from unseen("nodes", survey.nodes)
        return
    here, profile = survey.nodes.items, f"profile {wanted.name}"
    look, left = f"{survey.kubectl} get nodes", [node for node in here if _ready(node)]
    if len(left) < len(here):
        yield warn("nodes", f"{len(here) - len(left)} of {len(here)} nodes are not ready or cordoned", look)
    selector = wanted.pod.get("nodeSelector") or {}
    left = matching(left, wanted.pod)
    if not left:
        yield fail(
            "nodes",
            f"no ready node has the labels {_pairs(selector)}",
            f"{look} --show-labels; correct node_selector in {profile}",
            NotFound,
        )
        return
    for resource, asked in wanted.resources.items():
        largest = max(amount(offer(node, resource)) for node in left)
        if "/" in resource and largest == 0:
            remedy = f"install its device plugin, or correct gpu.resource or rdma in {profile}"
            yield fail("nodes", f"no node offers {resource}", remedy, NotFound)
            return
        left = [node for node in left if amount(offer(node, resource)) >= amount(asked)]
        if not left:
            found = f"a pod asks for {asked} {resource}, the largest node has {_shown(resource, largest)}"
            remedy = "lower cluster.gpus_per_node" if "/" in resource else f"lower {resource} in {profile}"
            yield fail("nodes", found, remedy, NotFound)
            return
    yield from _taints(wanted, left)


def _taints(wanted: Wanted, left: list[Manifest]) -> Iterator[Finding]:
    open_to_us = [node for node in left if not keeps_away(node, wanted.pod)]
    if not open_to_us:
        taints = sorted({taint for node in left for taint in keeps_away(node, wanted.pod)})
        remedy = f"add {{key: {taints[0].partition('=')[0]}, operator: Exists}} to tolerations in profile {wanted.name}"
        yield fail(
            "nodes",
            f"the nodes that fit have taints that a run does not tolerate: {', '.join(taints)}",
            remedy,
            Refused,
        )
    elif len(open_to_us) < wanted.nodes:
        found = f"{len(open_to_us)} nodes can take a pod of the run, which has {wanted.nodes}"
        yield warn("nodes", found, "lower cluster.nodes, or wait for more nodes")
    else:
        devices = ", ".join(f"{asked} {name}" for name, asked in wanted.resources.items() if "/" in name)
        count = "1 node" if len(open_to_us) == 1 else f"{len(open_to_us)} nodes"
        yield ok("nodes", f"{count} can take a pod of a run{f' with {devices}' if devices else ''}")


def rdma(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """RDMA locks memory; how much a container may lock is its runtime's business and cannot be asked from outside."""
    if wanted.nodes > 1 and wanted.profile.rdma:
        found = "RDMA needs an unlimited memlock in containers, which no API tells"
        yield warn("rdma", found, "on a node: containerd's unit must have LimitMEMLOCK=infinity")
    elif wanted.nodes > 1:
        found = f"{wanted.nodes} nodes without RDMA: NCCL talks over plain sockets, about ten times slower"
        yield warn("rdma", found, f"write the nodes' RDMA resource into rdma of profile {wanted.name}")


def quotas(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """That what is left of each quota is enough for all pods of the run."""
    if survey.quotas.value is None:
        yield from unseen("quota", survey.quotas)
        return
    for quota in survey.quotas.items:
        hard, used = quota["spec"].get("hard") or {}, (quota.get("status") or {}).get("used") or {}
        name, tight = quota["metadata"]["name"], False
        for resource, limit in hard.items():
            need = amount(_asked(wanted, resource)) * (1 if resource.startswith("count/") else wanted.nodes)
            asks = f"a run asks for {_shown(resource, need)}"
            found = f"quota {name}: {limit} {resource}, {used.get(resource, '0')} used, {asks}"
            look = f"{survey.kubectl} -n {survey.namespace} describe resourcequota {name}"
            if need > amount(limit):
                yield fail("quota", found, f"ask for a larger quota, or make the run smaller; {look}", Refused)
                tight = True
            elif need and need > amount(limit) - amount(used.get(resource, "0")):
                yield warn("quota", found, f"a run waits until another one has ended; {look}")
                tight = True
        if not tight:
            yield ok("quota", f"quota {name} has room for a run")


def _shown(resource: str, number: float) -> str:
    """As people write it: memory in Gi."""
    return f"{number / 2**30:.3g}Gi" if resource.endswith(("memory", "storage")) else f"{number:g}"


def _asked(wanted: Wanted, resource: str) -> str:
    """What one pod takes of a quota's resource; of a count, what one run takes."""
    plain = resource.removeprefix("requests.").removeprefix("limits.")
    if resource in ("pods", "count/pods", "count/pytorchjobs.kubeflow.org", "count/configmaps"):
        return "1"
    return wanted.resources.get(plain, "0")


def _ready(node: Manifest) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    well = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    return well and not cordoned(node)


def _pairs(selector: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in selector.items()) or "that it needs"
