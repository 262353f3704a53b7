"""What a cluster answers to the questions of `kctl doctor`. A snapshot: it asks nobody."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kctl.errors import KctlError, NotFound
from kctl.manifest import Manifest

Right = tuple[str, str]
"""A verb of the API and a resource: ("get", "pods/log")."""


@dataclass(frozen=True)
class Answer:
    """What came of one question: an object, or why there is none."""

    value: Manifest | None = None
    error: KctlError | None = None

    @property
    def absent(self) -> bool:
        """True where the cluster has no such thing."""
        return isinstance(self.error, NotFound)

    @property
    def items(self) -> list[Manifest]:
        """Of a list."""
        return list((self.value or {}).get("items") or [])


NOT_ASKED = Answer()


@dataclass(frozen=True)
class Questions:
    """What doctor wants to know, besides what it always asks."""

    rights: tuple[Right, ...]
    job: Manifest | None
    """The PyTorchJob that is tried, with a pod of it; neither is kept."""
    image: str
    queue: tuple[str, str | None]
    """Kind (none, kueue, volcano) and name."""
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """A namespace of a cluster, as far as it lets us look."""

    namespace: str
    kubectl: str
    """How kubectl is asked about the same cluster."""
    version: Answer = NOT_ASKED
    space: Answer = NOT_ASKED
    """The namespace itself."""
    operator_api: Answer = NOT_ASKED
    operator: Answer = NOT_ASKED
    """The training operator's deployments, of all namespaces."""
    claims: Answer = NOT_ASKED
    classes: Answer = NOT_ASKED
    nodes: Answer = NOT_ASKED
    quotas: Answer = NOT_ASKED
    queue_api: Answer = NOT_ASKED
    queue: Answer = NOT_ASKED
    job: Answer = NOT_ASKED
    """The job as the server would have made it."""
    pod: Answer = NOT_ASKED
    """A pod of it, likewise."""
    image: Answer = NOT_ASKED
    """What its registry says from here: digest."""
    rights: Mapping[Right, bool | None] = field(default_factory=dict)
    """None: the cluster did not say."""
    secrets: Mapping[str, Answer] = field(default_factory=dict)
    """By name, without what is in them."""
