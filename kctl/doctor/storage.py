"""Checks of the claims and of the secrets that the pods mount."""

from collections.abc import Iterator

from kctl.backends.survey import Survey
from kctl.config.profile import Claim
from kctl.doctor.finding import Finding, Wanted, fail, ok, unseen, warn
from kctl.errors import NotFound, UsageError
from kctl.manifest import Manifest

_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def claims(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """That models, data and runs are there, bound, and as the profile says."""
    if survey.claims.value is None:
        yield from unseen("claims", survey.claims)
        return
    if survey.space.absent:  # they come with it
        yield from _classes(survey, {None})
        return
    there = {claim["metadata"]["name"]: claim for claim in survey.claims.items}
    volumes, unbound = wanted.profile.volumes, set[str | None]()
    for use, claim in {"models": volumes.models, "data": volumes.data, "runs": volumes.runs}.items():
        live = there.get(claim.claim)
        if live is None or (live.get("status") or {}).get("phase") == "Pending":
            unbound.add(None if live is None else live["spec"].get("storageClassName"))
        if live is None:
            make = f"{survey.kubectl} -n {survey.namespace} apply -f k8s/base/team/volumes.yaml"
            remedy = f"{make}, or correct volumes.{use} in profile {wanted.name}"
            yield fail("claims", f"there is no claim {claim.claim} ({use})", remedy, NotFound)
        else:
            yield from _claim(survey, wanted, use, claim, live)
    yield from _classes(survey, unbound)


def _claim(survey: Survey, wanted: Wanted, use: str, claim: Claim, live: Manifest) -> Iterator[Finding]:
    phase, modes = (live.get("status") or {}).get("phase"), live["spec"].get("accessModes") or []
    describe = f"{survey.kubectl} -n {survey.namespace} describe pvc {claim.claim}"
    if "deletionTimestamp" in live["metadata"] or phase == "Lost":
        yield fail(
            "claims", f"claim {claim.claim} ({use}) is {'going' if phase != 'Lost' else 'Lost'}", describe, NotFound
        )
    elif phase != "Bound" and not _binds_late(survey, live):
        yield warn("claims", f"claim {claim.claim} ({use}) is {phase or 'not bound'}", describe)
    elif wanted.nodes > 1 and not {"ReadWriteMany", "ReadOnlyMany"} & set(modes):
        found = f"claim {claim.claim} ({use}) is {', '.join(modes)}: {wanted.nodes} nodes cannot mount it"
        yield fail("claims", found, "use a claim with ReadWriteMany, or cluster.nodes: 1", UsageError)
    elif claim.access_mode not in modes:
        found = f"claim {claim.claim} ({use}) is {', '.join(modes)}, profile {wanted.name} says {claim.access_mode}"
        yield warn("claims", found, f"correct volumes.{use}.access_mode in profile {wanted.name}")
    else:
        size = ((live.get("status") or {}).get("capacity") or {}).get("storage", "of unknown size")
        yield ok("claims", f"{use}: claim {claim.claim}, {size}, {', '.join(modes)}")


def _binds_late(survey: Survey, live: Manifest) -> bool:
    """Its class waits for the first pod."""
    name = live["spec"].get("storageClassName")
    late = {
        one["metadata"]["name"]
        for one in survey.classes.items
        if one.get("volumeBindingMode") == "WaitForFirstConsumer"
    }
    return name in late


def _classes(survey: Survey, unbound: set[str | None]) -> Iterator[Finding]:
    """Why claims of these classes would not bind; None: of the default one."""
    if survey.classes.value is None:
        return
    names = {one["metadata"]["name"]: one["metadata"].get("annotations") or {} for one in survey.classes.items}
    listed = ", ".join(sorted(names)) or "none"
    for gone in sorted(filter(None, unbound - set(names))):
        remedy = f"make the claim anew with one of: {listed}"
        yield fail("storage-class", f"there is no storage class {gone}", remedy, NotFound)
    if None in unbound and not any(notes.get(_DEFAULT) == "true" for notes in names.values()):
        remedy = f"write storageClassName into the claims (there are: {listed})"
        if not names:
            remedy = "ask an administrator for one, or for volumes that fit the claims"
        found = "no storage class is the default one" if names else "there is no storage class"
        yield warn("storage-class", found, remedy)


def secrets(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """That the Secrets which pods name are there; their keys are not looked at."""
    if survey.space.absent:
        return
    for name, answer in survey.secrets.items():
        if answer.absent:
            remedy = f"{survey.kubectl} -n {survey.namespace} create secret generic {name} --from-literal=KEY=VALUE"
            if name in wanted.profile.pull_secrets:
                remedy = (
                    f"{survey.kubectl} -n {survey.namespace} create secret docker-registry {name} --docker-server=..."
                )
            yield fail("secrets", f"there is no Secret {name}", remedy, NotFound)
        elif answer.value is not None:
            yield ok("secrets", f"Secret {name} is there")
        else:
            yield from unseen("secrets", answer)
