"""All checks in the order of the page. What only follows from a missing operator or namespace is not said.

The traps of a PyTorchJob that can be seen beforehand: those in its manifest are kctl.manifest.preflight's, which
refuses it (name, enums, container, replicas, processes, elastic, probes, lifetime, clean-up, shm, secrets in env,
overridden env, grace) or warns (Pod Security, digest, too large a model). Those in the cluster are here: Pod Security,
webhooks, quota and LimitRange by a pod that the server tries; the queue and its integration; claims and their access
modes; Secrets; devices and taints; the operator's version.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from kctl.backends.facts import Facts
from kctl.backends.survey import Answer, Survey
from kctl.doctor.capacity import nodes, quotas, rdma
from kctl.doctor.finding import Finding, State, Wanted, fail, ok, unseen, warn
from kctl.doctor.operator import installed, namespace, queue, server
from kctl.doctor.rights import rights
from kctl.doctor.storage import claims, secrets
from kctl.errors import NotFound, Refused, Unreachable
from kctl.explain.cause import found
from kctl.explain.refusing import REFUSED


def tried_job(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """The job as the API server, the operator's webhook and the administrator's rules take it."""
    if survey.space.absent or survey.operator_api.error is not None:
        return
    if survey.job.value is not None:
        yield ok("job", "the API server and all webhooks would take the job")
    elif survey.job.error is not None:
        what, _, remedy = str(survey.job.error).partition("; ")
        yield fail("job", what, remedy, type(survey.job.error))


def tried_pod(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """A pod of it as the namespace takes it: Pod Security, quota, LimitRange, accounts, policies, webhooks."""
    error = survey.pod.error
    if survey.space.absent:
        return
    if survey.pod.value is not None:
        yield ok("pod", "the namespace would take its pods")
    elif isinstance(error, Refused) and "no right to" not in str(error):
        yield _why(survey, wanted, error)
    elif error is not None:
        yield from unseen("pod", survey.pod)


def _why(survey: Survey, wanted: Wanted, error: Refused) -> Finding:
    """In the words of `kctl explain`, where the operator would be told the same."""
    about = {"kind": "PyTorchJob", "name": "x", "uid": "x"}
    said = {"type": "Warning", "reason": "FailedCreatePod", "message": str(error), "involvedObject": about}
    job = {
        "metadata": {"name": "x", "uid": "x", "namespace": survey.namespace},
        "spec": (wanted.job or {}).get("spec", {}),
    }
    facts = Facts(datetime.now(UTC), job, events=(said,), kubectl=survey.kubectl)
    told = (one for cause in REFUSED if (one := found(cause, facts, "", "submit again")))
    first = next(told)
    return fail("pod", first.sentence, first.next, Refused)


def image(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """Whether the registry has it, asked from here: the nodes may reach another one, or by other credentials."""
    name = wanted.profile.image
    if "example.com" in name or "example.org" in name:
        remedy = f"make image IMAGE=REGISTRY/kctl PUSH=1; then write what it prints as image of profile {wanted.name}"
        yield fail("image", f"{name} is the example's name, not one to pull", remedy, NotFound)
    elif survey.image.absent:
        yield fail("image", str(survey.image.error), f"push it, or correct image in profile {wanted.name}", NotFound)
    elif isinstance(survey.image.error, Refused):
        named = wanted.profile.pull_secrets
        remedy = f"name a Secret for it in pull_secrets of profile {wanted.name}"
        note = f"{survey.image.error}; pull_secrets: {', '.join(named)}"
        yield ok("image", note) if named else warn("image", str(survey.image.error), remedy)
    elif isinstance(survey.image.error, Unreachable):
        yield warn("image", str(survey.image.error), "the nodes may reach it; kctl explain RUN tells when one cannot")
    else:
        yield from _digest(survey.image, wanted)


def _digest(answer: Answer, wanted: Wanted) -> Iterator[Finding]:
    digest, name = (answer.value or {}).get("digest"), wanted.profile.image
    if "@sha256:" in name:
        yield ok("image", f"the registry has {name}")
    elif digest:
        pinned = f"{name.partition('@')[0]}@{digest}"
        yield warn(
            "image",
            f"{name} is no digest: it can change between attempts",
            f"write image: {pinned} into profile {wanted.name}",
        )


Check = Callable[[Survey, Wanted], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    server,
    installed,
    namespace,
    rights,
    claims,
    secrets,
    image,
    queue,
    tried_job,
    tried_pod,
    nodes,
    rdma,
    quotas,
)
"""As a cluster is set up, in the README's order: what a later line needs stands before it."""


def findings(survey: Survey, wanted: Wanted) -> list[Finding]:
    """What all checks find, in the order of the page."""
    return [one for check in CHECKS for one in check(survey, wanted)]


def exit_code(all_of_them: list[Finding]) -> int:
    """Of the first that fails; 0 where none does."""
    return next((one.exit_code for one in all_of_them if one.state is State.FAIL), 0)
