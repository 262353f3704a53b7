"""Checks of what must be installed: API server, namespace, training operator and its webhook, the queue."""

import re
from collections.abc import Iterator

from kctl.backends.survey import Survey
from kctl.doctor.finding import Finding, Wanted, fail, ok, unseen, warn
from kctl.errors import NotFound, Refused, UsageError
from kctl.manifest import Manifest

KEEPS_PODS = (1, 9, 4)
"""Older operators delete pods and their logs at a backoffLimit, whatever cleanPodPolicy says (trainer#3419)."""
_TAGS = {"v1-93c5489": (1, 9, 4)}
"""Images are tagged by commit: the tag in the manifests of a release."""
_SOURCE = "github.com/kubeflow/training-operator.git/manifests/overlays/standalone?ref=v1.9.4"
SHIPPED = "kctl"
"""The namespace that k8s/base makes."""
INSTALL = f'kubectl apply --server-side -k "{_SOURCE}"'


def server(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """Which Kubernetes it is."""
    yield ok("server", f"Kubernetes {(survey.version.value or {}).get('gitVersion', 'of unknown version')}")


def namespace(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """That it is there, and which Pod Security level it enforces."""
    if survey.space.absent:
        remedy = f"{survey.kubectl} apply -k k8s/base"
        if survey.namespace != SHIPPED:
            remedy = f"take {SHIPPED} with -n and {remedy}; for another name copy k8s/overlays/team (k8s/README.md)"
        yield fail("namespace", f"there is no namespace {survey.namespace}", remedy, NotFound)
    elif survey.space.value is not None:
        level = _labels(survey.space.value).get("pod-security.kubernetes.io/enforce", "privileged")
        ends = "deletionTimestamp" in survey.space.value["metadata"]
        if ends:
            yield fail("namespace", f"{survey.namespace} is being deleted", "choose another one with -n", NotFound)
        else:
            yield ok("namespace", f"{survey.namespace} enforces Pod Security {level}")


def _labels(thing: Manifest) -> dict[str, str]:
    return thing["metadata"].get("labels") or {}


def installed(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """The PyTorchJob's definition, and the operator that acts on it."""
    if survey.operator_api.error is not None:
        yield fail(
            "operator", "the cluster knows no PyTorchJob: the training operator is not installed", INSTALL, Refused
        )
        return
    yield from unseen("operator", survey.operator)
    if survey.operator.value is None:
        return
    if not survey.operator.items:
        remedy = f"{survey.kubectl} get deployments -A; {INSTALL}"
        yield warn("operator", "PyTorchJobs are defined, but no deployment of the operator has its label", remedy)
    for deployment in survey.operator.items:
        yield from _deployment(survey, wanted, deployment)


def _deployment(survey: Survey, wanted: Wanted, deployment: Manifest) -> Iterator[Finding]:
    metadata, container = deployment["metadata"], deployment["spec"]["template"]["spec"]["containers"][0]
    where = f"{metadata.get('namespace')}/{metadata['name']}"
    if not (deployment.get("status") or {}).get("availableReplicas"):
        remedy = f"{survey.kubectl} -n {metadata.get('namespace')} describe deployment {metadata['name']}"
        yield fail("operator", f"the training operator {where} does not run", remedy, Refused)
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    if wanted.profile.queue.kind == "volcano" and "--gang-scheduler-name=volcano" not in words:
        remedy = f"add --gang-scheduler-name=volcano to the arguments of deployment {where}"
        yield fail("operator", "runs are for Volcano, and the training operator makes no PodGroups", remedy, Refused)
    tag = str(container.get("image", "")).partition("@")[0].rpartition(":")[2]
    version = _version(tag)
    if version is None:
        yield warn("operator", f"{where}: its tag {tag} tells no version", f"see that it is 1.9.4 or newer: {INSTALL}")
    elif version < KEEPS_PODS:
        found = f"{where} is {'.'.join(map(str, version))}: up to 1.9.3 it deletes pods and logs of some failed jobs"
        yield warn("operator", found, INSTALL)
    else:
        yield ok("operator", f"training operator {'.'.join(map(str, version))} ({where})")


def _version(tag: str) -> tuple[int, ...] | None:
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", tag)
    return tuple(map(int, match.groups())) if match else _TAGS.get(tag)


def queue(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """That the queue is there, takes runs, and is asked at all."""
    kind, name = wanted.profile.queue.kind, wanted.profile.queue.name
    if kind == "none":
        return
    correct = f"correct queue in profile {wanted.name}"
    if survey.queue_api.error is not None:
        remedy = f"ask an administrator to install {kind}, or {correct}"
        yield fail("queue", f"the cluster has no {kind}", remedy, NotFound)
    elif survey.queue.absent:
        listing = "localqueues" if kind == "kueue" else "queues"
        remedy = f"{survey.kubectl} -n {survey.namespace} get {listing}; then {correct}"
        yield fail("queue", f"there is no queue {name}", remedy, NotFound)
    else:
        yield from unseen("queue", survey.queue)
        yield from _active(survey, str(name))
        if kind == "kueue":
            yield from _heeded(survey, str(name))


def _active(survey: Survey, name: str) -> Iterator[Finding]:
    status = (survey.queue.value or {}).get("status") or {}
    active: Manifest = next((one for one in status.get("conditions") or [] if one.get("type") == "Active"), {})
    if active.get("status") == "False":
        yield warn("queue", f"queue {name} takes no runs: {active.get('message', '')}", "ask who runs the queue")
    elif survey.queue.value is not None:
        yield ok("queue", f"queue {name} is there")


def _heeded(survey: Survey, name: str) -> Iterator[Finding]:
    """Kueue's webhook suspends a job with its label at once; where it does not, the label means nothing."""
    if survey.job.value is not None and not survey.job.value["spec"].get("runPolicy", {}).get("suspend"):
        remedy = "ask who runs Kueue to switch on its integration of PyTorchJobs (off by default from 0.19 on)"
        yield fail("queue", f"a run would start at once, beside queue {name}", remedy, UsageError)
