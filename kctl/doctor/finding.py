"""What a check finds, and what the checks are given besides the cluster's answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kctl.backends.survey import Answer
from kctl.errors import KctlError
from kctl.manifest import Manifest, pod_of, requests_of
from trainer.schema.redaction import redacted

if TYPE_CHECKING:
    from kctl.config.profile import ClusterProfile


class State(StrEnum):
    """How it stands."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    check: str
    state: State
    found: str
    next: str = ""
    """What to do; empty where all is well."""
    exit_code: int = 0
    """Of kctl.errors, by the class of what fails."""


@dataclass(frozen=True)
class Wanted:
    """What the runs want of the cluster."""

    profile: "ClusterProfile"
    name: str
    """Of the profile."""
    nodes: int
    job: Manifest | None
    """Rendered; None where that failed."""

    @property
    def pod(self) -> Manifest:
        """The spec of one pod."""
        return pod_of(self.job or {})

    @property
    def resources(self) -> dict[str, str]:
        """What one pod asks for: resource -> quantity."""
        return requests_of(self.pod)

    @property
    def secret_names(self) -> tuple[str, ...]:
        """Secrets that a pod needs: for its image and for its environment."""
        entries = [entry for one in self.pod.get("containers") or [] for entry in one.get("env") or []]
        references = [(entry.get("valueFrom") or {}).get("secretKeyRef") for entry in entries]
        env = (str(one["name"]) for one in references if one and not one.get("optional"))
        return tuple(dict.fromkeys([*self.profile.pull_secrets, *env]))


def ok(check: str, found: str) -> Finding:
    return Finding(check, State.OK, found)


def warn(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, State.WARN, found, remedy)


def fail(check: str, found: str, remedy: str, error: type[KctlError]) -> Finding:
    return Finding(check, State.FAIL, found, remedy, error.exit_code)


def unseen(check: str, answer: Answer) -> Iterator[Finding]:
    """A warning where the question got no answer."""
    if answer.error is not None:
        what, _, remedy = redacted(str(answer.error)).partition("; ")
        yield warn(check, f"not looked at: {what}", remedy or "ask an administrator")
