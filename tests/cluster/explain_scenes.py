"""Runs that wait for a reason of their own, each made by real objects: cause of kctl.explain -> how it comes about.

Of each a profile, what else must be there, and what is done once it is submitted. Their pods never train.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.explain_objects import (
    LABEL,
    LAMP,
    Object,
    elsewhere,
    held_claim,
    lamp_holder,
    node,
    policy,
    webhook,
    without_folder,
)
from tests.cluster.jobs import RESTRICTED
from tests.cluster.shell import Shell
from tests.cluster.team import Team
from tests.cluster.volumes import NODE, bound_to, claim

GATED = {"schedulingGates": [{"name": "kctl.dev/test"}]}


@dataclass(frozen=True)
class Scene:
    """How one run gets into its trouble."""

    profile: dict[str, Any] = field(default_factory=dict)
    objects: Callable[[Team], list[Object]] = lambda team: []
    then: Callable[[Team, str], None] = lambda team, run: None
    """Done once the run is there."""


def data(name: str) -> dict[str, Any]:
    """A profile whose claim for the data has this name."""
    return {"volumes": {"data": {"claim": name}}}


def patch(**spec: Any) -> dict[str, Any]:
    """A profile with a changed pod."""
    return {"pod_patch": spec}


def lamps(count: int) -> dict[str, Any]:
    """A profile whose pods ask for so many lamps."""
    return patch(containers=[{"name": "pytorch", "resources": {"limits": {LAMP: str(count)}}}])


def there(word: str) -> dict[str, Any]:
    """A profile whose pods want that node."""
    return {"node_selector": {"kctl.dev/test": word}}


# ----------------------------------------------------------------------------------------------------------------------
# what is done once the run is there


def job_patch(body: Object) -> Callable[[Team, str], None]:
    """Change the job as kubectl patch would."""

    def then(team: Team, run: str) -> None:
        team.shell.kubectl("patch", "pytorchjob", run, "--type=merge", "-p", json.dumps(body))

    return then


def deleted(team: Team, run: str) -> None:
    """Somebody deletes the job, and a finalizer holds it."""
    job_patch({"metadata": {"finalizers": ["kctl.dev/test"]}})(team, run)
    team.shell.kubectl("delete", "pytorchjob", run, "--wait=false")


def claim_deleted(team: Team, run: str) -> None:
    """Before its pod is placed: in use, Kubernetes itself would keep it."""
    team.shell.kubectl("delete", "pvc", "ending", "--wait=false")
    ungated(team, run)


def volume_lost(team: Team, run: str) -> None:
    """The volume goes while the claim is bound to it."""
    team.shell.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "pvc/lost", "--timeout=50s")
    team.shell.kubectl("delete", "pv", f"{team.shell.namespace}-lost", "--wait=false")
    free = json.dumps({"metadata": {"finalizers": None}})
    team.shell.kubectl("patch", "pv", f"{team.shell.namespace}-lost", "--type=merge", "-p", free)
    team.shell.kubectl("wait", "--for=jsonpath={.status.phase}=Lost", "pvc/lost", "--timeout=50s")
    ungated(team, run)


def config_map_gone(team: Team, run: str) -> None:
    team.shell.kubectl("delete", "configmaps", "-l", f"kctl.dev/run={run}")
    ungated(team, run)


def ungated(team: Team, run: str) -> None:
    """Let the pod start."""
    pod, gates = f"{run}-master-0", '[{"op": "remove", "path": "/spec/schedulingGates"}]'
    team.shell.kubectl("wait", "--for=create", f"pod/{pod}", "--timeout=50s")
    team.shell.kubectl("patch", "pod", pod, "--type=json", "-p", gates)


def cancelled(team: Team, run: str) -> None:
    team.ok("cancel", run)


def _absent(image: str) -> str:
    """The same image by a tag that nobody pushed."""
    return re.sub(r"(@sha256:\w+|:[\w.-]+)$", "", image) + ":absent"


def _registry(image: str) -> str:
    return image.partition("/")[0]


def scenes(team: Team, rootly: str) -> dict[str, Scene]:
    """Cause -> scene."""
    env = {"secret": "no-secret", "key": "token"}
    keyless = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keyless"}, "stringData": {"other": "x"}}
    unclassed = claim("unclassed", "ReadWriteMany", {"storageClassName": ""})
    fast = claim("fast", "ReadWriteMany", {"storageClassName": "no-such-class"})
    tainted = {"taints": [{"key": "team", "value": "vision", "effect": "NoSchedule"}]}
    root = {"image": rootly, **patch(securityContext={"runAsUser": None, "runAsGroup": None, "fsGroup": None})}
    return {
        "image-absent": Scene({"image": _absent(team.image)}),
        "image-name": Scene({"image": f"{_registry(team.image)}/Upper:x"}),
        "registry-away": Scene({"image": "localhost:1/trainer:x"}),
        "pull-secret-absent": Scene({"image": "localhost:1/trainer:y", "pull_secrets": ["no-regcred"]}),
        "runs-as-root": Scene(root),
        "secret-absent": Scene({"env": {"HUB_TOKEN": env}}),
        "secret-key-absent": Scene({"env": {"HUB_TOKEN": env | {"secret": "keyless"}}}, lambda team: [keyless]),
        "config-map-absent": Scene(patch(**GATED), then=config_map_gone),
        "claim-absent": Scene(data("never")),
        "claim-no-class": Scene(data("unclassed"), lambda team: [unclassed]),
        "claim-class-absent": Scene(data("fast"), lambda team: [fast]),
        "claim-unbound": Scene(
            data("unbound"), lambda team: [claim("unbound", "ReadWriteMany", bound_to("unbound", team.shell))]
        ),
        "claim-ends": Scene(data("ending") | patch(**GATED), held_claim("ending"), claim_deleted),
        "claim-lost": Scene(data("lost") | patch(**GATED), held_claim("lost"), volume_lost),
        "volume-elsewhere": Scene(data("elsewhere"), elsewhere),
        "mount-failed": Scene(data("no-folder"), without_folder),
        "selector": Scene(there("nowhere")),
        "taint": Scene(there("tainted"), lambda team: [node(team, "tainted", **tainted)]),
        "nodes-cordoned": Scene(there("cordoned"), lambda team: [node(team, "cordoned", unschedulable=True)]),
        "nodes-not-ready": Scene(there("empty"), lambda team: [node(team, "empty")]),
        "resource-nowhere": Scene(
            patch(containers=[{"name": "pytorch", "resources": {"limits": {"kctl.dev/none": "1"}}}])
        ),
        "resource-too-large": Scene(lamps(3)),
        "resource-busy": Scene(lamps(1), lamp_holder),
        "scheduling-gate": Scene(patch(**GATED)),
        "scheduler-silent": Scene(patch(schedulerName="nobody")),
        "priority-class": Scene(patch(priorityClassName="no-priority")),
        "service-account": Scene(patch(serviceAccountName="no-account")),
        "runtime-class": Scene(patch(runtimeClassName="no-runtime")),
        "pod-security": Scene(patch(hostNetwork=True)),
        "pod-invalid": Scene(patch(hostname="Not_A_Label")),
        "webhook-away": Scene(objects=webhook),
        "policy": Scene(objects=policy),
        "suspended": Scene(there("nowhere"), then=job_patch({"spec": {"runPolicy": {"suspend": True}}})),
        "cancelled": Scene(there("nowhere"), then=cancelled),
        "deleting": Scene(there("nowhere"), then=deleted),
    }


@contextmanager
def staged(team: Team, all_of_them: dict[str, Scene]) -> Iterator[None]:
    """What the scenes need is there inside the block."""
    with ExitStack() as stack:
        stack.enter_context(_lamps(team.shell))
        stack.callback(freed, team.shell)
        for scene in all_of_them.values():
            if objects := scene.objects(team):
                stack.enter_context(team.shell.made(*objects))
        team.shell.kubectl("wait", "--for=condition=PodScheduled", "pod/lamp-holder", "--timeout=50s")
        _policy_works(team.shell)
        yield


@contextmanager
def _lamps(shell: Shell) -> Iterator[None]:
    """The node says that it has two."""

    def patch_node(**status: dict[str, str | None]) -> None:
        body = json.dumps({"status": status})
        shell.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", body)

    patch_node(capacity={LAMP: "2"})
    allocatable = "jsonpath={.status.allocatable.kctl\\.dev/lamp}=2"
    shell.kubectl("wait", f"--for={allocatable}", f"node/{NODE}", "--timeout=50s")
    yield
    patch_node(capacity={LAMP: None}, allocatable={LAMP: None})


def freed(shell: Shell) -> None:
    """Finalizers of ours go, so that what they hold can."""
    free = json.dumps({"metadata": {"finalizers": None}})
    for kind in ("pytorchjobs", "persistentvolumeclaims"):
        for name in shell.kubectl("get", kind, "-o", "name").split():
            shell.kubectl("patch", name, "--type=merge", "-p", free, check=False)


def _policy_works(shell: Shell) -> None:
    """A new policy takes seconds to be heard: until then it lets everything through."""
    container = {"name": "x", "image": "x", "securityContext": RESTRICTED}
    metadata = {"name": "probe", "labels": {LABEL: "policy"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    text = json.dumps(pod)
    deadline = time.monotonic() + 60
    while shell.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=text, check=False):
        assert time.monotonic() < deadline, "the policy is not heard"
        time.sleep(0.5)
