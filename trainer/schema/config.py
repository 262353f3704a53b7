"""TrainConfig: all that the trainer ever sees of a run config, and the rules that span its sections."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from trainer.schema.data import Data
from trainer.schema.method import Lora, Model, Optim
from trainer.schema.ops import Ops
from trainer.schema.section import REFUSED, Section


class Evaluation(Section):
    """Loss on held-out items, best adapter and early stopping."""

    per_epoch: int = Field(2, ge=1, le=1000)
    """Evaluations an epoch, evenly spread; the end of an epoch is always one."""
    max_items: int = Field(1000, ge=1)
    """A fixed subset of the held-out items, chosen by hash."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations without an improvement of min_delta; null: never."""
    min_delta: float = Field(0.0, ge=0)
    """Smallest fall of the loss (nats per token) that counts as an improvement."""


class TrainConfig(Section):
    """One training run. Everything but `ops` is part of the run's identity."""

    model: Model
    """The frozen base model."""
    data: Data
    """Training and held-out items."""
    method: Literal["lora", "full"] = "lora"
    """lora: adapters under ZeRO-2; full: every parameter under ZeRO-3."""
    lora: Lora | None = None
    """Needed with method lora, absent with full."""
    optim: Optim
    """AdamW and its schedule."""
    global_batch_size: int = Field(64, ge=1)
    """Items a step, over all ranks. Never depends on memory, packing or the number of GPUs."""
    epochs: int = Field(1, ge=1, le=10_000)
    """Passes over the training items."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many steps; null: epochs x ceil(items / global_batch_size)."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the forward and backward pass. Master weights, moments and gradient sums are always fp32."""
    evaluation: Evaluation = Evaluation()
    """Held-out loss."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Order of items, adapter initialisation and dropout."""
    revision: int = Field(0, ge=0)
    """Raise it for new data under the same path, or to start again from nothing."""
    ops: Ops = Ops()
    """Operation; not part of the identity."""

    @model_validator(mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        method = value.get("method") if isinstance(value, dict) else None
        if isinstance(method, str) and method.lower() in ("qlora", "dora"):
            problem = {"problem": f"method {method!r}: {REFUSED[method.lower()]} (method: lora)"}
            raise PydanticCustomError("refused", "{problem}", problem)
        return value

    @model_validator(mode="after")
    def _lora_with_lora(self) -> Self:
        if self.method == "lora" and self.lora is None:
            raise ValueError("method lora needs a lora section: add lora: {rank: 64}")
        if self.method == "full" and self.lora is not None:
            raise ValueError(
                "method full trains every parameter: remove the lora section (or write lora: null if it is inherited)"
            )
        if self.method == "lora" and self.ops.offload:
            raise ValueError(
                "ops.offload is for method full: adapters have little that could lie in host memory, and a LoRA run's "
                "frozen weights stay on the GPUs: remove it (or write offload: false if it is inherited)"
            )
        return self
