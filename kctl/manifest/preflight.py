"""The operator's and Kubernetes' traps that can be seen on a rendered PyTorchJob, each a small function.

Needs no cluster: what only an API server can tell, `kctl submit --dry-run=server` asks it. Refusals are what would
break the run; warnings are what some clusters accept. Runs after pod_patch is merged.
"""

from collections.abc import Callable, Iterator
from typing import Any

from kctl.config.kubernetes_names import LABEL_1035, quantity
from kctl.config.secrets import secret_problem
from kctl.errors import UsageError
from kctl.manifest import Manifest
from trainer.schema.contract import CONTAINER, ENV_GRACE_SECONDS, MAX_RUN_NAME

Trap = Callable[[Manifest], str | None]

SHORTEST_GRACE = 60
"""Seconds: 15 of them are the launcher's own, the rest is for one step and one checkpoint."""

_OPERATOR_ENV = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHONUNBUFFERED", "PET_NPROC_PER_NODE"}


def check(job: Manifest) -> list[str]:
    """Warnings about a rendered PyTorchJob; UsageError with the first trap that would break the run."""
    for trap in REFUSED:
        if problem := trap(job):
            raise UsageError(f"{job['metadata']['name']}: {problem}")
    return [problem for trap in WARNED if (problem := trap(job))]


def trap_name(job: Manifest) -> str | None:
    """Pods and services are named after the job, and must stay DNS labels."""
    name = job["metadata"]["name"]
    if len(name) > MAX_RUN_NAME or not LABEL_1035.fullmatch(name):
        return f"the run's name must be a DNS label of at most {MAX_RUN_NAME} characters: shorten name"
    return None


def trap_enums(job: Manifest) -> str | None:
    """The CRD has no enums; a misspelt policy is accepted and then means something else."""
    for _, replica in _replicas(job):
        if replica["restartPolicy"] not in ("ExitCode", "OnFailure", "Never"):
            return f"restartPolicy {replica['restartPolicy']!r} is none that the operator knows"
        if _pod(replica).get("restartPolicy") is not None:
            return "the pod's restartPolicy is overwritten by the operator: remove it from pod_patch"
    policy = job["spec"]["runPolicy"]["cleanPodPolicy"]
    return (
        None if policy in ("None", "Running", "All") else f"cleanPodPolicy {policy!r} is none that the operator knows"
    )


def trap_container(job: Manifest) -> str | None:
    """The operator's webhook wants a container of this name, and kctl's command in it."""
    for _, replica in _replicas(job):
        named = [item for item in _pod(replica).get("containers", ()) if item["name"] == CONTAINER]
        if len(named) != 1 or "trainer.launch" not in named[0].get("command", ()):
            return f"needs one container {CONTAINER!r} that runs trainer.launch: remove that change from pod_patch"
    return None


def trap_replicas(job: Manifest) -> str | None:
    """One Master alone, or Workers alone: Workers beside a Master get an init container from Docker Hub."""
    found = {name: replica["replicas"] for name, replica in _replicas(job)}
    if found == {"Master": 1} or (list(found) == ["Worker"] and found["Worker"] > 1):
        return None
    return f"replicas must be one Master, or two or more Workers alone, got {found}"


def trap_processes(job: Manifest) -> str | None:
    """nprocPerNode is text, and must be the number of GPUs, or ranks would share or miss them."""
    processes = job["spec"]["nprocPerNode"]
    if not (isinstance(processes, str) and processes.isdigit()):
        return f"nprocPerNode must be a number in quotes, got {processes!r}"
    for _, replica in _replicas(job):
        limits = _limits(replica)
        gpus = {str(count) for name, count in limits.items() if name.endswith((".com/gpu", "/gpu"))}
        if gpus and gpus != {processes}:
            return f"nprocPerNode is {processes} but the GPU limit {', '.join(gpus)}: use cluster.gpus_per_node"
    return None


def trap_elastic(job: Manifest) -> str | None:
    """With elasticPolicy the job succeeds as soon as any worker does; standalone crashes torchrun."""
    return "elasticPolicy must be absent" if "elasticPolicy" in job["spec"] else None


def trap_probes(job: Manifest) -> str | None:
    """A readiness probe keeps worker-0's name out of DNS until it is ready, which it never gets."""
    found = any("readinessProbe" in item for _, replica in _replicas(job) for item in _containers(replica))
    return "a readinessProbe stops the ranks from finding each other: remove it from pod_patch" if found else None


def trap_lifetime(job: Manifest) -> str | None:
    """`suspend` in a manifest undoes a cancel; a TTL makes GitOps train again in a loop."""
    found = [key for key in ("suspend", "ttlSecondsAfterFinished", "backoffLimit") if key in job["spec"]["runPolicy"]]
    return f"runPolicy.{found[0]} must be absent" if found else None


def trap_clean(job: Manifest) -> str | None:
    """cleanPodPolicy None leaves pods on their GPUs when the job ends; All deletes the logs."""
    return None if job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running" else "cleanPodPolicy must be Running"


def trap_restricted(job: Manifest) -> str | None:
    """A namespace that enforces the restricted Pod Security Standard refuses the pod."""
    for _, replica in _replicas(job):
        pod = _pod(replica)
        for problem in _not_restricted(pod):
            return f"{problem}: a namespace with the restricted Pod Security Standard refuses the pod (pod_patch?)"
    return None


def _not_restricted(pod: dict[str, Any]) -> Iterator[str]:
    security = pod.get("securityContext") or {}
    yield from (f"{key} is true" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    yield from (f"volume {item['name']} is a hostPath" for item in pod.get("volumes", ()) if "hostPath" in item)
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        yield "the pod may run as root"
    if (security.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "the pod has no seccomp profile"
    for item in (*pod.get("containers", ()), *pod.get("initContainers", ())):
        own, name = item.get("securityContext") or {}, item["name"]
        capabilities = own.get("capabilities") or {}
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            yield f"container {name} may gain privileges"
        if own.get("runAsNonRoot") is False or own.get("runAsUser") == 0:
            yield f"container {name} may run as root"
        added = set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}
        if added or "ALL" not in (capabilities.get("drop") or ()):
            yield f"container {name} keeps capabilities {', '.join(sorted(added))}".rstrip()


def trap_shm(job: Manifest) -> str | None:
    """The default /dev/shm of 64 MiB breaks NCCL; a larger one counts into the pod's memory."""
    for _, replica in _replicas(job):
        volumes = {item["name"]: item.get("emptyDir") or {} for item in _pod(replica).get("volumes", ())}
        mounted = [item["name"] for item in _main(replica).get("volumeMounts", ()) if item["mountPath"] == "/dev/shm"]
        size = volumes.get(mounted[0], {}).get("sizeLimit") if mounted else None
        memory = _limits(replica).get("memory")
        if size is None or memory is None:
            return "/dev/shm and the memory limit must both be set: set shm and memory in the profile"
        try:
            fits = quantity(str(size)) < quantity(str(memory))
        except ValueError as error:
            return f"shm {size} and memory {memory}: {error}"
        if not fits:
            return f"shm {size} must be below memory {memory}: it counts into it"
    return None


def trap_secrets(job: Manifest) -> str | None:
    """Who can read the job could read the token."""
    for name, value in _literals(job):
        if problem := secret_problem(name, value):
            return f"env: {problem}"
    return None


def trap_digest(job: Manifest) -> str | None:
    """A tag can be pushed again between two attempts."""
    images = [str(item.get("image")) for _, replica in _replicas(job) for item in _containers(replica)]
    loose = [image for image in images if "@sha256:" not in image]
    return (
        f"image {loose[0]} is not pinned by digest (NAME@sha256:...): it can change between attempts" if loose else None
    )


def trap_environment(job: Manifest) -> str | None:
    """The operator appends its own variables after ours, and wins; a name set twice hides the first."""
    nodes = str(sum(replica["replicas"] for _, replica in _replicas(job)))
    for _, replica in _replicas(job):
        for item in _containers(replica):
            names = [str(entry["name"]) for entry in item.get("env", ())]
            overridden = sorted(_OPERATOR_ENV.intersection(names))
            if overridden:
                return f"env {overridden[0]} is overridden by the operator: remove it from pod_patch"
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                return f"env {twice[0]} is set twice"
    told = {value for name, value in _literals(job) if name == "PET_NNODES"}
    return None if told <= {nodes} else f"PET_NNODES must be {nodes}, the number of pods"


def trap_grace(job: Manifest) -> str | None:
    """Between SIGTERM and SIGKILL a step ends and a checkpoint is saved."""
    for _, replica in _replicas(job):
        grace = _pod(replica).get("terminationGracePeriodSeconds", 30)
        told = {value for name, value in _literals(job) if name == ENV_GRACE_SECONDS}
        if grace < SHORTEST_GRACE or told != {str(grace)}:
            return (
                f"terminationGracePeriodSeconds must be >= {SHORTEST_GRACE} and is told to the trainer, got {grace}: "
                "set grace_seconds in the profile, not pod_patch"
            )
    return None


REFUSED: tuple[Trap, ...] = (
    trap_name,
    trap_enums,
    trap_container,
    trap_replicas,
    trap_processes,
    trap_elastic,
    trap_probes,
    trap_lifetime,
    trap_clean,
    trap_shm,
    trap_secrets,
    trap_environment,
    trap_grace,
)
WARNED: tuple[Trap, ...] = (trap_restricted, trap_digest)


def _replicas(job: Manifest) -> list[tuple[str, dict[str, Any]]]:
    return list(job["spec"]["pytorchReplicaSpecs"].items())


def _pod(replica: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = replica["template"]["spec"]
    return pod


def _containers(replica: dict[str, Any]) -> list[dict[str, Any]]:
    return [*_pod(replica).get("containers", ()), *_pod(replica).get("initContainers", ())]


def _main(replica: dict[str, Any]) -> dict[str, Any]:
    return next(item for item in _pod(replica)["containers"] if item["name"] == CONTAINER)


def _limits(replica: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = (_main(replica).get("resources") or {}).get("limits") or {}
    return limits


def _literals(job: Manifest) -> Iterator[tuple[str, str]]:
    for _, replica in _replicas(job):
        for item in _containers(replica):
            yield from ((str(entry["name"]), str(entry["value"])) for entry in item.get("env", ()) if "value" in entry)
