"""What the scenes of explain_scenes.py put into the cluster: nodes, volumes, an administrator's rules."""

from collections.abc import Callable
from typing import Any

from tests.cluster.jobs import RESTRICTED
from tests.cluster.team import Team
from tests.cluster.volumes import bound_to, claim, volume

Object = dict[str, Any]
LAMP = "kctl.dev/lamp"
"""A device of this node that nobody else asks for."""
LABEL = "kctl.dev/config"
"""On each pod: the config's name, which is the cause's."""


def named(team: Team, word: str) -> str:
    """The name of something that is not in a namespace."""
    return f"{team.shell.namespace}-{word}"


def node(team: Team, word: str, **spec: Any) -> Object:
    """A node without a kubelet, for a run with the label in its selector."""
    metadata = {"name": named(team, word), "labels": {"kctl.dev/test": word}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}


def elsewhere(team: Team) -> list[Object]:
    """A volume that no node of this cluster may mount."""
    made = volume("elsewhere", team.shell, team.volumes["data"])
    (term,) = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    term["matchExpressions"][0]["values"] = ["another-node"]
    return [made, claim("elsewhere", "ReadWriteMany", bound_to("elsewhere", team.shell))]


def without_folder(team: Team) -> list[Object]:
    made = volume("no-folder", team.shell, team.volumes["data"] / "absent")
    return [made, claim("no-folder", "ReadWriteMany", bound_to("no-folder", team.shell))]


def held_claim(name: str) -> Callable[[Team], list[Object]]:
    """A claim with its volume, and a finalizer that keeps it."""

    def made(team: Team) -> list[Object]:
        kept = claim(name, "ReadWriteMany", bound_to(name, team.shell))
        kept["metadata"]["finalizers"] = ["kctl.dev/test"]
        return [volume(name, team.shell, team.volumes["data"]), kept]

    return made


def webhook(team: Team) -> list[Object]:
    """Nobody listens where it should be asked."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    hook = {
        "name": "away.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
        "objectSelector": {"matchLabels": {LABEL: "webhook-away"}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return [{**kind, "metadata": {"name": named(team, "away")}, "webhooks": [hook]}]


def policy(team: Team) -> list[Object]:
    """An administrator's rule about pods."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    constraints = {"resourceRules": [rule], "objectSelector": {"matchLabels": {LABEL: "policy"}}}
    validation = {"expression": "false", "message": "not before Monday"}
    name, version = named(team, "monday"), "admissionregistration.k8s.io/v1"
    spec = {"failurePolicy": "Fail", "matchConstraints": constraints, "validations": [validation]}
    return [
        {"apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec},
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]


def lamp_holder(team: Team) -> list[Object]:
    """A pod with all lamps of the node."""
    limits = {"resources": {"limits": {LAMP: "2"}}}
    container = {"name": "holder", "image": "localhost:1/none:x", "securityContext": RESTRICTED, **limits}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lamp-holder"}, "spec": spec}]
