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
    "status": {"pytorchjobs": _LOOK, "pods": "list", "pods/log": "get", "events": "list"},
    "explain": {"pytorchjobs": _LOOK, "pods": "list", "pods/log": "get", "events": "list"},
    "list": {"pytorchjobs": "list", "pods": "list", "pods/log": "get", "events": "list"},
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
    if survey.space.absent:
        return
    if not any(survey.rights.values()) and None in survey.rights.values():
        yield warn("rights", "the cluster does not say what we may do", f"{survey.kubectl} auth can-i --list")
        return
    rows = needed(wanted.profile.queue.kind)
    missing = {verb: [one for one in row if survey.rights.get(one) is False] for verb, row in rows.items()}
    for verb in _NEEDED:
        if missing[verb]:
            yield fail("rights", *_lack(survey, [verb], missing), Refused)
    if others := [verb for verb, gone in missing.items() if gone and verb not in _NEEDED]:
        yield warn("rights", *_lack(survey, others, missing))
    if not any(missing.values()):
        yield ok("rights", f"every verb of kctl works in namespace {survey.namespace}")


def _lack(survey: Survey, verbs: list[str], missing: dict[str, list[Right]]) -> tuple[str, str]:
    """(what these verbs lack, the command of an administrator)."""
    gone = dict.fromkeys(right for verb in verbs for right in missing[verb])
    named = ", ".join(f"{right} {resource}" for right, resource in gone)
    role = "kctl-user-kueue" if set(gone) <= set(WITH_KUEUE) else "kctl-user"
    grant = f"{survey.kubectl} -n {survey.namespace} create rolebinding NAME --role={role} --user=NAME"
    return f"{', '.join(f'kctl {verb}' for verb in verbs)}: no right to {named}", f"ask an administrator for: {grant}"
