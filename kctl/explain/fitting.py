"""Why no node fits: what the scheduler says, held against the nodes themselves where they can be seen.

It says one reason a node: of a tainted node never that it has other labels than the run wants, too.
"""

import re
from collections.abc import Callable

from kctl.backends.facts import Facts
from kctl.explain.cause import Predicate, Seen, says
from kctl.explain.nodes import amount, keeps_away, matching, offer
from kctl.manifest import Manifest

_unplaced = Facts.unplaced
_INSUFFICIENT = re.compile(r"Insufficient ([\w./-]*\w)")
_OWN = "node.kubernetes.io/"
_says_selector = says(_unplaced, r"didn't match (Pod's node affinity/selector|scheduler-enforced node affinity)")


def short_of(case: str) -> Predicate:
    """The scheduler finds too little of a resource, and the nodes show why.

    `case`: nowhere (no node has any), too-large (no node has so much), busy (others have it), unknown (nodes unseen).
    """

    def seen(facts: Facts) -> Seen | None:
        for said in facts.unplaced():
            for resource in _INSUFFICIENT.findall(said.words):
                wanted, largest = facts.wanted.get(resource, "1"), _largest(facts, resource)
                if _case(wanted, largest) == case:
                    names = {"resource": resource, "wanted": wanted, "largest": largest or "", "about": said.about}
                    shown = [said.line]
                    if largest is not None:
                        shown.append(f"nodes: {len(facts.nodes or ())}, the largest has {largest} {resource}")
                    return Seen(names, tuple(shown))
        return None

    return seen


def _largest(facts: Facts, resource: str) -> str | None:
    """The most of a resource that a node offers to the run, as it is written there; None where no node was seen."""
    if facts.nodes is None:
        return None
    offered = [offer(node, resource) for node in matching(facts.nodes, facts.template)]
    return max(offered, key=amount, default="0")


def _case(wanted: str, largest: str | None) -> str:
    if largest is None:
        return "unknown"
    if amount(largest) == 0:
        return "nowhere"
    return "too-large" if amount(wanted) > amount(largest) else "busy"


def unmatched(facts: Facts) -> Seen | None:
    """No node has the labels: the nodes show it, or the scheduler gives no other reason."""
    found = _says_selector(facts)
    if found is None:
        return None
    if facts.nodes is None or facts.template.get("affinity"):
        other = re.search(r"taint( \{(?!node-role)|\(s\))|Insufficient|unschedulable", found.evidence[0])
        return None if other else found
    return None if matching(facts.nodes, facts.template) else found


def held_back(words: str, by: Callable[[Manifest, Manifest], str]) -> Predicate:
    """The scheduler speaks of such nodes and, where nodes are known, one is among those with the run's labels.

    `by`: what keeps a pod away from a node, empty where that does not. Kubernetes 1.34 speaks of taints without a name:
    then only the nodes tell which.
    """
    said, nameless = says(_unplaced, words), says(_unplaced, r"untolerated taint\(s\)")

    def seen(facts: Facts) -> Seen | None:
        found = said(facts)
        if facts.nodes is None:
            return found
        found = found or nameless(facts)
        if found is None:
            return None
        for node in matching(facts.nodes, facts.template):
            if what := by(node, facts.template):
                fields = {**found.fields, "what": what, "key": what.partition("=")[0]}
                return Seen(fields, (*found.evidence, f"node {node['metadata']['name']}: {what}"))
        return None

    return seen


def taint(node: Manifest, pod: Manifest) -> str:
    """One that people gave it; those of control planes are meant to stay."""
    return next((one for one in keeps_away(node, pod) if not one.startswith((_OWN, "node-role.kubernetes.io/"))), "")


def condition(*names: str) -> Callable[[Manifest, Manifest], str]:
    """One of the taints by which Kubernetes says how a node is."""

    def by(node: Manifest, pod: Manifest) -> str:
        found = (one.partition("=")[0].removeprefix(_OWN) for one in keeps_away(node, pod) if one.startswith(_OWN))
        return next((one for one in found if one in names), "")

    return by
