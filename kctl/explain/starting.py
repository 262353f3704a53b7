"""Causes while a pod has a node and does not run: image, volumes, secrets, the container itself.

Words: Kubernetes 1.34, pkg/kubelet (images, kuberuntime, events); messages of pulls are containerd's.
"""

from kctl.backends.facts import Facts
from kctl.explain.cause import Cause, Predicate, Seen, either, says

_waits, _event = Facts.pod_waits, Facts.pod_events
PULL_SECONDS = 60.0


def pull(pattern: str) -> Predicate:
    """The kubelet cannot pull, for such a reason; it says so in the container's state and in an event."""
    failed = rf"(ErrImagePull|ImagePullBackOff|Failed: Failed to pull).*?({pattern})"
    seen = either(says(_waits, failed), says(_event, failed))

    def with_image(facts: Facts) -> Seen | None:
        found = seen(facts)
        return None if found is None else Seen({**found.fields, "image": image(facts)}, found.evidence)

    return with_image


def image(facts: Facts) -> str:
    """The image of the run's first container."""
    return next((str(one.get("image")) for one in facts.template.get("containers") or []), "of the run")


def pulling(facts: Facts) -> Seen | None:
    """The kubelet is at it for a while."""
    for event in facts.events:
        name = event["involvedObject"].get("name")
        if event.get("reason") != "Pulling" or not any(one.endswith(str(name)) for one in _creating(facts)):
            continue
        seconds = facts.since(str(event.get("lastTimestamp") or event.get("firstTimestamp") or ""))
        if seconds > PULL_SECONDS:
            shown = f"event of pod {name}: {event.get('message', 'Pulling')}, {seconds:.0f} s ago"
            return Seen({"image": image(facts), "seconds": f"{seconds:.0f}"}, (shown,))
    return None


def creating(facts: Facts) -> Seen | None:
    """On its node, without a complaint."""
    waiting = _creating(facts)
    return Seen({"about": waiting[0]}, (f"{waiting[0]}: ContainerCreating",)) if waiting else None


def _creating(facts: Facts) -> list[str]:
    return [said.about for said in facts.pod_waits() if said.words.startswith(("ContainerCreating", "PodInitializing"))]


def half_started(facts: Facts) -> Seen | None:
    """Of several nodes some have started: their ranks wait, and hold their GPUs."""
    phases = [pod.phase for pod in facts.view.pods]
    running, waiting = phases.count("Running"), phases.count("Pending")
    if not running or not waiting:
        return None
    return Seen({"running": str(running), "all": str(len(phases))}, (f"pods: {running} run, {waiting} wait",))


IMAGE = (
    Cause(
        "image-name",
        says(_waits, r"InvalidImageName: (?P<why>.*)"),
        "the image's name cannot be read: {why}",
        "correct image in the cluster profile, then: kctl cancel {run}{flags}; then {resume}",
    ),
    Cause(
        "image-absent",
        pull(r"not found|manifest unknown|NotFound|does not exist"),
        "the registry does not have image {image}",
        "correct image in the cluster profile, then: kctl cancel {run}{flags}; then {resume}",
    ),
    Cause(
        "image-rate",
        pull(r"toomanyrequests|429 Too Many Requests|rate limit"),
        "the registry gives no more pulls for now (its rate limit)",
        "wait, or set pull_secrets in the cluster profile; the node tries again by itself",
    ),
    Cause(
        "image-denied",
        pull(
            r"401 Unauthorized|403 Forbidden|pull access denied|authorization failed|no basic auth|insufficient_scope"
        ),
        "the registry does not let the node pull {image}",
        "{kubectl} get secrets; then name one for that registry in pull_secrets of the cluster profile",
    ),
    Cause(
        "image-certificate",
        pull(r"x509:|server gave HTTP response to HTTPS client|certificate"),
        "the node does not trust the registry's certificate",
        "ask who runs the nodes to add it to containerd's configuration",
    ),
    Cause(
        "image-platform",
        pull(r"no match for platform"),
        "image {image} is not built for the nodes' kind of processor",
        "build it for the nodes' platform: make image",
    ),
    Cause(
        "image-disk",
        pull(r"no space left on device"),
        "the node has no room for image {image}",
        "{cluster} describe nodes; ask who runs them to make room",
    ),
    Cause(
        "registry-away",
        pull(r"dial tcp|no such host|i/o timeout|connection refused|TLS handshake|deadline exceeded|EOF|50[234]"),
        "the node does not reach the registry of {image}",
        "check the registry and the nodes' network; the node tries again by itself",
    ),
    Cause(
        "image-not-pulled",
        pull(r"$|."),
        "the node cannot pull image {image}",
        "{kubectl} describe pod {name}",
    ),
    Cause(
        "pull-secret-absent",
        says(_event, r"FailedToRetrieveImagePullSecret: .*\((?P<secret>[^)]+)\)"),
        "the namespace has no secret {secret}, which pull_secrets of the cluster profile name",
        "{kubectl} get secrets; make it, or correct pull_secrets",
    ),
)
STARTING = (
    Cause(
        "secret-absent",
        either(
            says(_waits, r'secrets? "(?P<secret>[^"]+)" not found'),
            says(_event, r'secrets? "(?P<secret>[^"]+)" not found'),
        ),
        "the namespace has no secret {secret}, which env of the run names",
        "{kubectl} create secret generic {secret} --from-literal=KEY=VALUE; the pod starts by itself",
    ),
    Cause(
        "secret-key-absent",
        says(_waits, r"couldn't find key (?P<key>\S+) in (?P<kind>Secret|ConfigMap) \S*?/(?P<secret>\S+)"),
        "{kind} {secret} has no key {key}",
        "{kubectl} describe {kind} {secret}; add the key: the pod starts by itself",
    ),
    Cause(
        "config-map-absent",
        either(
            says(_event, r'configmap "(?P<config_map>[^"]+)" not found'),
            says(_waits, r'configmap "(?P<config_map>[^"]+)" not found'),
        ),
        "ConfigMap {config_map}, the run's config, is gone",
        "kctl cancel {run}{flags}; then {resume}",
    ),
    Cause(
        "multi-attach",
        says(_event, r'Multi-Attach error for volume "(?P<volume>[^"]+)"'),
        "volume {volume} is attached to another node: its claim is ReadWriteOnce",
        "{cluster} get volumeattachments; end what uses it there, or use a claim with ReadWriteMany",
    ),
    Cause(
        "attach-failed",
        says(_event, r"FailedAttachVolume: (?P<why>.+)"),
        "a volume cannot be attached to the node: {why}",
        "{kubectl} describe pod {name}",
    ),
    Cause(
        "sub-path",
        either(says(_waits, r"(subPath|sub path).*"), says(_event, r"failed to (create|prepare) subPath.*")),
        "a folder (sub_path) of a claim cannot be mounted: {words}",
        "correct sub_path in volumes of the cluster profile, or make that folder",
    ),
    Cause(
        "mount-failed",
        says(_event, r'FailedMount: (MountVolume\.\w+ failed for volume "(?P<volume>[^"]+)" : )?(?P<why>.+)'),
        "a volume cannot be mounted: {why}",
        "{kubectl} describe pod {name}; check the storage",
    ),
    Cause(
        "runs-as-root",
        says(_waits, r"runAsNonRoot and |breaks non-root policy"),
        "the image would run as root, which the pod forbids",
        "set run_as in the cluster profile (uid of 1 or more)",
    ),
    Cause(
        "config-error",
        says(_waits, r"CreateContainerConfigError: (?P<why>.+)"),
        "the container cannot be set up: {why}",
        "{kubectl} describe pod {name}",
    ),
    Cause(
        "not-the-image",
        either(
            says(_waits, r"exec: .(?P<program>[\w./-]+).+(not found|no such file)"),
            says(Facts.pod_ends, r"exec: .(?P<program>[\w./-]+).+(not found|no such file)"),
        ),
        "the image has no {program}: it is not the trainer's",
        "correct image in the cluster profile: make image prints its name",
    ),
    Cause(
        "create-error",
        says(_waits, r"(CreateContainerError|RunContainerError|PostStartHookError): (?P<why>.+)"),
        "the node cannot start the container: {why}",
        "{kubectl} describe pod {name}",
    ),
    Cause(
        "sandbox",
        says(_event, r"FailedCreatePodSandBox: (?P<why>.+)"),
        "the node cannot set up the pod's network: {why}",
        "{kubectl} describe pod {name}; ask who runs the nodes",
    ),
    Cause(
        "init-container",
        says(_waits, r"^(?P<why>CrashLoopBackOff.*)"),
        "a container beside the trainer's ends again and again: {why}",
        "{kubectl} logs {name} --all-containers --previous",
    ),
    Cause(
        "image-pulling",
        pulling,
        "the node pulls image {image}, for {seconds} s now",
        "kctl logs -f {run}{flags}; the first pull on a node takes minutes",
    ),
    Cause(
        "half-started",
        half_started,
        "{running} of {all} pods run and wait for the others, with their GPUs; after 30 minutes they start again",
        "set queue in the cluster profile, so that all of them start or none",
    ),
    Cause("starting", creating, "the node prepares the container", "kctl logs -f {run}{flags}"),
)
