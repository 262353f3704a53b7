"""Which rights each verb needs: the table of k8s/README.md, which a test compares with this one."""

from collections.abc import Iterator

from kctl.backends.survey import Right, Survey
from kctl.doctor.finding import Finding, Wanted, fail, ok, warn
from kctl.errors import Refused

_LOOK = "get list"
_FILES = "get list watch create delete"
_READER = {"pytorchjobs": _LOOK, "pods": "list watch create delete", "pods/portforward": "get create"}
_VERBS: dict[str, dict[str, str]] = {
    "submit": {"pytorchjobs": "get list watch create delete", "configmaps": "get create", "pods": "list"},
    "status": {"pytorchjobs": _LOOK, "pods": _LOOK, "pods/log": "get", "events": "list"},
    "explain": {"pytorchjobs": _LOOK, "pods": _LOOK, "pods/log": "get", "events": "list"},
    "list": {"pytorchjobs": "list", "pods": _LOOK, "pods/log": "get", "events": "list"},
    "diff": {"pytorchjobs": _LOOK, "configmaps": "get", "pods": "list"},
    "logs": {"pytorchjobs": _LOOK, "pods": _LOOK, "pods/log": "get"},
    "wait": {"pytorchjobs": "get list watch", "pods": "list", "events": "list"},
    "push": {"pods": "list watch create delete", "pods/portforward": "get create"},
    **dict.fromkeys(("pull", "report", "adapters", "compare"), _READER),
    "merge": {"pytorchjobs": _LOOK, "pods": _FILES, "pods/log": "get"},
    "export": {"pytorchjobs": _LOOK, "pods": _FILES, "pods/log": "get"},
    "generate": {"pytorchjobs": _LOOK, "pods": _FILES, "pods/log": "get", "pods/portforward": "get create"},
    "cancel": {"pytorchjobs": "get list patch", "pods": "list"},
    "delete": {"pytorchjobs": "get list watch delete", "configmaps": "list delete", "pods": "list"},
    "prune": {"pytorchjobs": "list watch delete", "configmaps": "list delete", "pods": "list"},
}
RIGHTS: dict[str, tuple[Right, ...]] = {
    verb: tuple((right, resource) for resource, rights in row.items() for right in rights.split())
    for verb, row in _VERBS.items()
}
WITH_KUEUE: tuple[Right, ...] = (("list", "workloads"), ("patch", "workloads"))
"""What cancel needs more in a queue of Kueue."""
_NEEDED = ("submit", "status", "logs", "pull")
"""Without these kctl is of no use."""


def needed(queue: str) -> dict[str, tuple[Right, ...]]:
    """The rights of each verb, where runs wait in a queue of that kind."""
    return {**RIGHTS, "cancel": RIGHTS["cancel"] + WITH_KUEUE} if queue == "kueue" else RIGHTS


def asked(queue: str) -> tuple[Right, ...]:
    """All of them, each once."""
    return tuple(dict.fromkeys(right for row in needed(queue).values() for right in row))


def rights(survey: Survey, wanted: Wanted) -> Iterator[Finding]:
    """One line for each verb that does not work, one where all do."""
    if not any(survey.rights.values()) and None in survey.rights.values():
        yield warn("rights", "the cluster does not say what we may do", f"{survey.kubectl} auth can-i --list")
        return
    rows = needed(wanted.profile.queue.kind)
    missing = {verb: [one for one in row if survey.rights.get(one) is False] for verb, row in rows.items()}
    for verb, gone in missing.items():
        if gone:
            named = ", ".join(f"{right} {resource}" for right, resource in gone)
            role = "kctl-user-kueue" if set(gone) <= set(WITH_KUEUE) else "kctl-user"
            remedy = f"ask an administrator for role {role} in {survey.namespace} (k8s/README.md)"
            found = f"kctl {verb}: no right to {named}"
            yield fail("rights", found, remedy, Refused) if verb in _NEEDED else warn("rights", found, remedy)
    if not any(missing.values()):
        yield ok("rights", f"every verb of kctl works in namespace {survey.namespace}")
