"""Asking a cluster whether it is ready: reads, and creations that the server only tries (dryRun=All)."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kctl.backends.cluster.api import Api, Query
from kctl.backends.cluster.queues import KUEUE, VOLCANO, kueue_path
from kctl.backends.cluster.registry import digest_of
from kctl.backends.survey import NOT_ASKED, Answer, Questions, Right, Survey
from kctl.errors import KctlError, NotFound, Refused, Unreachable
from kctl.manifest import Manifest, template_of

OPERATOR_LABEL = "control-plane=kubeflow-training-operator"
TRIED = "kctl-doctor"
"""Name of what the server tries."""
_AT_ONCE = 12
_GROUPS = {"pytorchjobs": "kubeflow.org", "workloads": "kueue.x-k8s.io"}
"""API groups of what is not in the core one."""


def surveyed(api: Api, namespace: str, questions: Questions) -> Survey:
    """Everything at once. Unreachable where the server does not answer at all."""
    api.get("ask the API server for its version", "/version")
    core = f"/api/v1/namespaces/{namespace}"

    def got(action: str, path: str, **query: str) -> Answer:
        return _tried(lambda: api.get(action, path, query))

    asked: dict[str, Callable[[], Answer]] = {
        "version": lambda: got("ask the API server for its version", "/version"),
        "space": lambda: got(f"read namespace {namespace}", core),
        "operator_api": lambda: got("look for the training operator", "/apis/kubeflow.org/v1"),
        "operator": lambda: got("list deployments", "/apis/apps/v1/deployments", labelSelector=OPERATOR_LABEL),
        "claims": lambda: got("list claims", f"{core}/persistentvolumeclaims"),
        "classes": lambda: got("list storage classes", "/apis/storage.k8s.io/v1/storageclasses"),
        "nodes": lambda: got("list nodes", "/api/v1/nodes", limit="500"),
        "quotas": lambda: got("list quotas", f"{core}/resourcequotas"),
        "queue_api": lambda: _queue_api(api, questions.queue[0]),
        "queue": lambda: _queue(api, namespace, questions.queue),
        "job": lambda: _job(api, namespace, questions.job),
        "pod": lambda: _pod(api, namespace, questions.job),
        "image": lambda: _tried(lambda: {"digest": digest_of(questions.image)}),
    }
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        answers = {name: pool.submit(ask) for name, ask in asked.items()}
        rights = {right: pool.submit(_allowed, api, namespace, right) for right in questions.rights}
        secrets = {name: pool.submit(_secret, api, core, name) for name in questions.secrets}
    return Survey(
        namespace,
        api.connection.kubectl,
        **{name: answer.result() for name, answer in answers.items()},
        rights={right: answer.result() for right, answer in rights.items()},
        secrets={name: answer.result() for name, answer in secrets.items()},
    )


def _tried(ask: Callable[[], Manifest]) -> Answer:
    try:
        return Answer(ask())
    except KctlError as error:
        return Answer(error=error)


def _allowed(api: Api, namespace: str, right: Right) -> bool | None:
    """What a SelfSubjectAccessReview says; None where it is not answered."""
    verb, resource = right
    name, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": _GROUPS.get(name, ""), "resource": name}
    attributes |= {"subresource": subresource}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    try:
        review = api.post("ask for our rights", path, {**body, "spec": {"resourceAttributes": attributes}})
    except (Refused, NotFound, Unreachable):
        return None
    return bool((review.get("status") or {}).get("allowed"))


def _secret(api: Api, core: str, name: str) -> Answer:
    """Whether it is there; what is in it stays on the server."""
    return _tried(lambda: api.metadata(f"look for Secret {name}", f"{core}/secrets/{name}"))


def _queue_api(api: Api, kind: str) -> Answer:
    paths = {"kueue": KUEUE, "volcano": VOLCANO}
    return _tried(lambda: api.get(f"look for {kind}", paths[kind])) if kind in paths else NOT_ASKED


def _queue(api: Api, namespace: str, queue: tuple[str, str | None]) -> Answer:
    kind, name = queue
    if kind == "volcano":
        return _tried(lambda: api.get(f"read Queue {name}", f"{VOLCANO}/queues/{name}"))
    if kind != "kueue":
        return NOT_ASKED

    return _tried(lambda: api.get(f"read LocalQueue {name}", f"{kueue_path(api, namespace, 'localqueues')}/{name}"))


def _job(api: Api, namespace: str, job: Manifest | None) -> Answer:
    if job is None:
        return NOT_ASKED
    tried = {**job, "metadata": {**job["metadata"], "name": TRIED, "namespace": namespace}}
    return _created(api, f"/apis/kubeflow.org/v1/namespaces/{namespace}/pytorchjobs", "PyTorchJob", tried)


def _pod(api: Api, namespace: str, job: Manifest | None) -> Answer:
    if job is None:
        return NOT_ASKED
    template = copy.deepcopy(template_of(job))
    metadata = {**(template.get("metadata") or {}), "name": TRIED, "namespace": namespace}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    spec = {**template["spec"], "restartPolicy": "Never"}  # as the operator has it for ExitCode
    return _created(api, f"/api/v1/namespaces/{namespace}/pods", "Pod", {**pod, "spec": spec})


def _created(api: Api, path: str, kind: str, manifest: Manifest) -> Answer:
    query: Query = {"dryRun": "All", "fieldManager": "kctl"}
    return _tried(lambda: api.post(f"try a {kind}", path, manifest, query))
