"""Causes in the run's claims. Words: Kubernetes 1.34, pkg/controller/volume and pkg/scheduler's volume plugins."""

from collections.abc import Iterable

from kctl.backends.facts import Facts
from kctl.explain.cause import Cause, Predicate, Seen, either, says
from kctl.manifest import Manifest

_unplaced, _claim = Facts.unplaced, Facts.claim_events


def claim_is(phase: str) -> Predicate:
    """A claim of the run is in that phase."""

    def seen(facts: Facts) -> Seen | None:
        for claim in facts.claims or ():
            name, status = claim["metadata"]["name"], claim.get("status") or {}
            if name in facts.claimed and status.get("phase") == phase:
                return Seen({"claim": name}, (f"claim {name}: {phase}",))
        return None

    return seen


def absent(facts: Facts) -> Seen | None:
    """The job names a claim that the namespace does not have."""
    if facts.claims is None:
        return None
    missing = sorted(set(facts.claimed) - {claim["metadata"]["name"] for claim in facts.claims})
    return Seen({"claim": missing[0]}, (f"claims of the namespace: {_names(facts.claims)}",)) if missing else None


def _names(things: Iterable[Manifest]) -> str:
    return ", ".join(sorted(thing["metadata"]["name"] for thing in things)) or "none"


CLAIMS = (
    Cause(
        "claim-absent",
        either(says(_unplaced, r'persistentvolumeclaim "(?P<claim>[^"]+)" not found'), absent),
        "the namespace has no claim {claim}, which volumes of the cluster profile name",
        "{kubectl} get pvc; make it, or correct volumes of the cluster profile",
    ),
    Cause(
        "claim-ends",
        says(_unplaced, r'persistentvolumeclaim "(?P<claim>[^"]+)" is being deleted'),
        "claim {claim} is being deleted",
        "{kubectl} get pvc {claim}; make it again once it is gone",
    ),
    Cause(
        "claim-lost",
        either(
            claim_is("Lost"),
            says(_unplaced, r'persistentvolumeclaim "(?P<claim>[^"]+)" bound to non-existent|bound to non-existent pv'),
        ),
        "the volume behind claim {claim} is gone",
        "{kubectl} describe pvc {claim}; restore the volume, or make claim and volume anew",
    ),
    Cause(
        "claim-no-class",
        says(_claim, r"no persistent volumes available for this claim and no storage class is set"),
        "claim {name} names no storage class, the cluster has no default one, and no volume fits it",
        "{cluster} get storageclass; then make the claim with storageClassName",
    ),
    Cause(
        "claim-class-absent",
        says(_claim, r'ProvisioningFailed: storageclass.storage.k8s.io "(?P<class>[^"]+)" not found'),
        "claim {name} names storage class {class}, which the cluster does not have",
        "{cluster} get storageclass; then make the claim anew with one of these",
    ),
    Cause(
        "claim-not-provisioned",
        says(_claim, r"ProvisioningFailed: (?P<why>.+)"),
        "the storage could not make the volume of claim {name}: {why}",
        "{kubectl} describe pvc {name}",
    ),
    Cause(
        "claim-mismatch",
        says(_claim, r"(FailedBinding|VolumeMismatch): (?P<why>.+)"),
        "claim {name} and the volume that it names do not fit together: {why}",
        "{kubectl} describe pvc {name}",
    ),
    Cause(
        "claim-unbound",
        either(
            says(_unplaced, r"pod has unbound immediate PersistentVolumeClaims"),
            says(_unplaced, r"didn't find available persistent volumes to bind"),
        ),
        "a claim of the run has no volume yet",
        "{kubectl} get pvc; then {kubectl} describe pvc NAME",
    ),
    Cause(
        "volume-elsewhere",
        says(
            _unplaced,
            r"didn't match PersistentVolume's node affinity|volume node affinity conflict|no available volume zone",
        ),
        "a volume of the run can be used on some nodes only, and none of them can take the pod",
        "{cluster} get pv -o wide; then change node_selector of the cluster profile, or the claim",
    ),
    Cause(
        "volume-in-use",
        says(_unplaced, r"ReadWriteOncePod access mode already in-use"),
        "another pod holds a claim that only one pod may mount (ReadWriteOncePod)",
        "{kubectl} get pods -o wide; use a claim with ReadWriteMany",
    ),
    Cause(
        "volumes-per-node",
        says(_unplaced, r"exceed max volume count"),
        "no node may attach one more volume",
        "{cluster} get volumeattachments; it starts by itself when another pod ends",
    ),
)
