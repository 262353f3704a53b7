"""ClusterProfile: what is the same for all runs on one cluster. Only kctl reads it; it never names a run."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kctl.config.environment import Env
from kctl.config.kubernetes_names import Image, Label, LabelKey, LabelValue, ObjectName, Quantity, Resource
from trainer.schema.data import RelativePath
from trainer.schema.section import Section


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError(f"each once, got {', '.join(names)}")
    return names


class Claim(Section):
    """One PersistentVolumeClaim of the namespace."""

    shorthand: ClassVar = "claim"

    claim: ObjectName
    """Its name."""
    sub_path: RelativePath | None = None
    """A folder of the claim that is mounted instead of its root."""
    access_mode: Literal["ReadWriteMany", "ReadOnlyMany", "ReadWriteOnce"] = "ReadWriteMany"
    """How the claim can be mounted. Runs on several nodes need one that several nodes can mount."""


class Volumes(Section):
    """Where everything lies. Base models and data are mounted read-only, runs read-write."""

    models: Claim
    """Base models, one folder each."""
    data: Claim
    """Training data."""
    runs: Claim
    """One folder a run: checkpoints, logs, adapters."""

    @model_validator(mode="after")
    def _runs_writable(self) -> Self:
        if self.runs.access_mode == "ReadOnlyMany":
            raise ValueError("runs: access_mode ReadOnlyMany cannot be written: use ReadWriteMany or ReadWriteOnce")
        return self


class Gpu(Section):
    """The GPUs of one node."""

    resource: Resource = "nvidia.com/gpu"
    """Name of the extended resource."""
    model: str | None = None
    """What it is, for plans and reports, e.g. H100; node_selector chooses nodes."""
    memory_gib: float = Field(80, gt=0)
    """Memory of one GPU in GiB, for plans."""


class RunAs(Section):
    """Who the pod runs as. Never root."""

    uid: int = Field(1000, ge=1, lt=2**31)
    """User id."""
    gid: int = Field(1000, ge=1, lt=2**31)
    """Group id."""
    fs_group: int = Field(1000, ge=1, lt=2**31)
    """Group that owns files on the volumes, where the volume's driver supports it."""


class Queue(Section):
    """Who decides when a run starts. With several nodes: all pods together, or none."""

    shorthand: ClassVar = "kind"

    kind: Literal["none", "kueue", "volcano"] = "none"
    """none: the scheduler places pod by pod."""
    name: Label | None = None
    """LocalQueue (kueue) or Queue (volcano)."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.name is None) != (self.kind == "none"):
            raise ValueError(
                "write kind: kueue or volcano together with name: QUEUE, or neither (name: null if it is inherited)"
            )
        return self


class Toleration(Section):
    """A taint that the pods may ignore."""

    key: LabelKey | None = None
    """Key of the taint; null with operator Exists: every key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Equal compares the value, too. Equal where a value is written, else Exists."""
    value: LabelValue | None = None
    """Value of the taint, with Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """null: every effect."""

    @model_validator(mode="before")
    @classmethod
    def _equal_with_value(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("value") is not None:
            return {"operator": "Equal", **given}
        return given

    @model_validator(mode="after")
    def _as_the_server_wants(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value: write operator: Equal, or remove the value")
        if self.operator == "Equal" and not self.key:
            raise ValueError("operator Equal needs a key: add key: NAME, or write operator: Exists without a value")
        return self


class ClusterProfile(Section):
    """One cluster as runs see it."""

    file_keys: ClassVar = ("extends",)

    image: Image
    """The trainer image, best by digest (NAME@sha256:...): a tag can change between two attempts."""
    pull_secrets: Annotated[tuple[ObjectName, ...], AfterValidator(_each_once)] = ()
    """Secrets for pulling it."""
    context: str | None = None
    """Context of the kubeconfig; null: the current one. --context wins."""
    namespace: Label | None = None
    """Namespace of every run; null: the context's. -n wins."""
    volumes: Volumes
    """The three volumes."""
    cpu: Quantity = "16"
    """CPU that one pod requests (no limit is set: throttling would stall all ranks)."""
    memory: Quantity = "256Gi"
    """Memory of one pod, request and limit. Shared memory counts into it."""
    shm: Quantity = "16Gi"
    """/dev/shm of one pod, for NCCL; must stay below memory."""
    gpu: Gpu | None = None
    """null: no GPUs; then only configs with gpus_per_node: 0 run here."""
    rdma: dict[Resource, Annotated[int, Field(ge=1, le=1_000_000)]] = Field(default_factory=dict)
    """Extended resources for RDMA that each pod of a run on several nodes gets, e.g. {rdma/ib: 8}."""
    env: Env = Field(default_factory=dict)
    """Environment of every run, e.g. NCCL_SOCKET_IFNAME. A run config's own env wins."""
    run_as: RunAs | None = Field(default_factory=RunAs)
    """null: the cluster chooses the ids (OpenShift)."""
    grace_seconds: int = Field(300, ge=60, le=86_400)
    """Between SIGTERM and SIGKILL: time to save a checkpoint."""
    queue: Queue = Field(default_factory=Queue)
    """Queueing and gang scheduling."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that nodes must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that the pods may ignore."""
    price_per_gpu_hour: float | None = Field(None, ge=0)
    """For cost estimates, in whatever currency you count."""
    pod_patch: dict[str, Any] = Field(default_factory=dict)
    """Merged into the pod's spec as kubectl patch would (containers, volumes and env by name); then checked."""
