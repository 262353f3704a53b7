"""RunConfig: one file, one run. `train` is all the trainer ever sees; only kctl reads `cluster`.

load() is the way in: find the file, follow `extends`, apply `--set`, check everything, find the cluster profile.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from kctl.config.environment import Env
from kctl.config.kubernetes_names import Label, ObjectName, RunPrefix
from kctl.config.overrides import apply_set
from kctl.config.profile import ClusterProfile
from kctl.config.resolve import find_config, find_profile, read_layers
from kctl.config.secrets import refuse_secrets
from kctl.errors import NotFound, UsageError
from trainer.schema.config import TrainConfig
from trainer.schema.identity import run_name
from trainer.schema.loading import validated
from trainer.schema.parameters import Shape, known_shape
from trainer.schema.section import Section


class ClusterSection(Section):
    """Where and with what the run runs. Nothing here changes what it computes, so nothing here names it."""

    profile: Label = "default"
    """Name of a cluster profile: clusters/NAME.yaml beside the configs."""
    nodes: int = Field(1, ge=1, le=100)
    """Machines, one pod each."""
    gpus_per_node: int = Field(1, ge=0, le=64)
    """GPUs of each pod, one rank each. 0: a run on CPUs, then processes_per_node says the ranks."""
    processes_per_node: int | None = Field(None, ge=1, le=64)
    """Ranks of each pod of a run on CPUs; absent with GPUs."""
    priority: ObjectName | None = None
    """Name of a PriorityClass; null: the cluster's default."""
    max_hours: float | None = Field(None, gt=0, le=8760)
    """Then a checkpoint is saved and the run fails for good, resumable by a new submit; null: no limit."""
    env: Env = Field(default_factory=dict)
    """NAME: literal, or NAME: {secret: NAME, key: KEY}. Added to the profile's env."""

    @model_validator(mode="after")
    def _ranks_said_once(self) -> Self:
        if self.gpus_per_node == 0 and self.processes_per_node is None:
            raise ValueError("gpus_per_node 0 is a run on CPUs: add processes_per_node, e.g. 2")
        if self.gpus_per_node and self.processes_per_node is not None:
            raise ValueError(
                "processes_per_node belongs to gpus_per_node: 0; with GPUs there is one rank a GPU: remove it "
                "(or write processes_per_node: null if it is inherited)"
            )
        return self

    @property
    def ranks_per_node(self) -> int:
        """Processes that torchrun starts in each pod."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def ranks(self) -> int:
        """Processes of the whole run."""
        return self.nodes * self.ranks_per_node


class RunConfig(Section):
    """One complete run."""

    file_keys: ClassVar = ("extends",)

    name: RunPrefix
    """Start of the run's name, which ends in 8 hex digits of what it computes."""
    train: TrainConfig
    """What is computed."""
    cluster: ClusterSection = Field(default_factory=ClusterSection)
    """Where it runs."""

    @model_validator(mode="after")
    def _batch_covers_ranks(self) -> Self:
        batch, ranks = self.train.global_batch_size, self.cluster.ranks
        if batch < ranks:
            raise ValueError(
                f"train.global_batch_size: must be >= {ranks}, the number of ranks "
                f"({self.cluster.nodes} x {self.cluster.ranks_per_node}), got {batch}: raise it or use fewer ranks"
            )
        return self

    @model_validator(mode="after")
    def _fused_experts(self) -> Self:
        shape, lora = self.shape, self.train.lora
        if shape and shape.experts and lora:
            targets = lora.linear_targets
            if ("gate_proj" in targets) != ("up_proj" in targets):
                raise ValueError(
                    "train.lora.targets: gate_proj and up_proj are one fused tensor in this mixture's experts: "
                    "name both or neither"
                )
        return self

    @property
    def run(self) -> str:
        """The run's name."""
        return run_name(self.name, self.train)

    @property
    def shape(self) -> Shape | None:
        """The base model's sizes where kctl knows them."""
        model = self.train.model
        return known_shape(model.path or (model.hub.id if model.hub else ""))


@dataclass(frozen=True)
class LoadedConfig:
    """A config that is complete and right, with the profile it names and the file it came from."""

    config: RunConfig
    profile: ClusterProfile
    path: Path


_STANDARD = "lora_di3"


def load(config_argument: str, sets: list[str]) -> LoadedConfig:
    """The run config that a command line means, with its `--set`s, and its cluster profile.

    NotFound (4) with the nearest names where there is none; UsageError or ConfigError (2) where it is wrong, or names
    a parent or a profile that is not there.
    """
    path = find_config(config_argument)
    layers = read_layers(path)
    value = layers.value
    for assignment in sets:
        apply_set(RunConfig, value, assignment)
        apply_set(RunConfig, layers.own, assignment)

    def where(place: tuple[str, ...]) -> str:
        return layers.where(place) + (" with --set" if sets else "")

    config = validated(RunConfig, value, where)
    try:
        profile = load_profile(config.cluster.profile, path)
    except NotFound as error:
        raise UsageError(f"{where(('cluster', 'profile'))}: cluster.profile: {error}") from None
    refuse_secrets(value, where)
    return LoadedConfig(config, profile, path)


def load_or_standard(config_argument: str | None, sets: list[str]) -> LoadedConfig:
    """`load`; where no config is named a shipped one on the profile called default, with one GPU where that has any:
    for verbs that are about a cluster."""
    if config_argument is not None:
        return load(config_argument, sets)
    ranks = ["gpus_per_node=1"] if load_profile("default").gpu else ["gpus_per_node=0", "processes_per_node=1"]
    return load(_STANDARD, [*(f"cluster.{one}" for one in ranks), *sets])


def load_profile(name: str, config: Path | None = None) -> ClusterProfile:
    """The cluster profile `name`, looked for beside `config` first. NotFound and ConfigError as load has them."""
    path = find_profile(name, config)
    layers = read_layers(path, "a profile needs image and volumes: {models, data, runs}, each {claim: NAME}")
    profile = validated(ClusterProfile, layers.value, layers.where)
    refuse_secrets(layers.value, layers.where)
    return profile
