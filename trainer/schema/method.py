"""What is trained and how the optimiser moves it."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainer.schema.data import RelativePath
from trainer.schema.section import Section


class Hub(Section):
    """A model on a hub, pinned. Needs egress from the pod."""

    id: str = Field(min_length=1)
    """organisation/name"""
    revision: str = Field(min_length=1)
    """A commit, so that the run means the same tomorrow."""


class Model(Section):
    """The frozen base model: exactly one of path and hub."""

    shorthand: ClassVar = "path"

    path: RelativePath | None = None
    """A folder below the models volume with config.json, tokenizer.json and *.safetensors."""
    hub: Hub | None = None
    """A pinned model of a hub."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.path is not None and self.hub is not None:
            raise ValueError(
                "needs exactly one of path and hub: remove one (or write path: null or hub: null if it is inherited)"
            )
        if self.path is None and self.hub is None:
            raise ValueError('needs exactly one of path and hub: write path: "NAME" below the models volume')
        return self


Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "all-linear"]


class Lora(Section):
    """Low-rank adapters. `rank` acts on linear layers, `expert_rank` on a mixture's fused experts."""

    shorthand: ClassVar = "rank"

    rank: int = Field(ge=1, le=1024)
    """Rank on linear layers: attention, dense MLP, shared experts."""
    alpha: float | None = Field(None, gt=0)
    """Scale: the update is multiplied by alpha / rank, on experts too. null: 2 x rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the linear adapters (not on experts)."""
    targets: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Layers by name; all-linear = all seven. Never the router."""
    expert_rank: int | None = Field(None, ge=1, le=256)
    """Rank of each stored expert pair. null: max(8, rank / experts per token, rounded up to a multiple of 8)."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead."""
    expert_lr_scale: float = Field(1.0, gt=0, le=100)
    """The experts' learning rate is lr times this."""
    init_adapter: RelativePath | None = None
    """Start from this adapter folder below the runs volume (a new run, not a resume)."""

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError("targets must name at least one layer, each once")
        if "all-linear" in self.targets and len(self.targets) > 1:
            raise ValueError("all-linear stands alone in targets")
        if self.expert_rank is not None and ("gate_proj" in self.targets) != ("up_proj" in self.targets):
            raise ValueError(
                "targets: gate_proj and up_proj are one fused tensor in a mixture's experts: name both or neither"
            )
        return self

    @property
    def linear_targets(self) -> tuple[str, ...]:
        """The names with all-linear spelled out."""
        if self.targets == ("all-linear",):
            return ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        return tuple(self.targets)

    @property
    def effective_alpha(self) -> float:
        """alpha, or 2 x rank."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank


class Optim(Section):
    """AdamW and its schedule. The rate is a function of the step number alone."""

    lr: float = Field(gt=0, le=1)
    """Peak learning rate, e.g. 2.0e-4 for LoRA, 1.0e-5 for full."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments, each in [0, 1)."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Global gradient norm above which gradients are scaled down; null: no clipping."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape after the warm-up."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of linear warm-up; or warmup_ratio; neither: none."""
    warmup_ratio: float | None = Field(None, ge=0, lt=1)
    """Warm-up as a share of the decay's steps."""
    schedule_epochs: float | None = Field(None, gt=0)
    """The rate decays over this many epochs, then holds its floor; null: over all epochs."""
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """The floor as a share of lr."""

    @field_validator("betas")
    @classmethod
    def _betas(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"each beta must be in [0, 1), got {list(value)}")
        return value

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError(
                "set warmup_steps or warmup_ratio, not both: remove one (or write NAME: null if it is inherited)"
            )
        return self
