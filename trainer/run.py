"""What a rank holds after setup(), and the forward pass that training and evaluation share."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trainer.base_model import base_digest
from trainer.batches import Batch
from trainer.checkpoints import Named, Origin
from trainer.dataset.prepared import Prepared
from trainer.distributed import Ranks
from trainer.fast.loss import label_loss, output_head
from trainer.fast.replays import Replays
from trainer.hang import NOT_WATCHED, HangWatch
from trainer.schema.config import TrainConfig
from trainer.schema.contract import RunFolder
from trainer.schema.identity import train_hash
from trainer.schema.loading import RunFile
from trainer.schema.memory_plan import MemoryPlan
from trainer.schema.packing import Packing
from trainer.schema.schedule import Due
from trainer.writer import Writer


@dataclass(frozen=True)
class Run:
    """All that the loop needs; made once by setup()."""

    file: RunFile
    ranks: Ranks
    folder: RunFolder
    data: Prepared
    base: Path
    model: Any
    parameters: Named
    engine: Any
    writer: Writer
    due: Due
    plan: MemoryPlan
    packing: Packing
    subset: list[int]
    steps: int
    details: dict[str, Any]
    watch: HangWatch = NOT_WATCHED

    @property
    def full(self) -> bool:
        """Every parameter is trained, under ZeRO-3."""
        return self.file.train.method == "full"

    @property
    def train(self) -> TrainConfig:
        return self.file.train

    @cached_property
    def origin(self) -> Origin:
        """What this run's checkpoints belong to; reads all tokens and samples of the base model's files once."""
        data = f"{self.data.train.digest()} {self.data.validation.digest()}"
        return Origin(
            run=self.file.run,
            config=train_hash(self.train),
            base=base_digest(self.base),
            data=hashlib.sha256(data.encode()).hexdigest(),
        )


def autocast(train: TrainConfig, device: torch.device) -> torch.autocast:
    """bf16 compute over fp32 adapters; full-parameter models are bf16 themselves.

    Without a cache of cast weights, which would outlive a recording: each is used once a row anyway.
    """
    wanted = train.precision == "bf16" and train.method == "lora"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)


def token_losses(model: Any, train: TrainConfig, replays: Replays, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of cross entropy over the row's labels, each label's (labels,)) in fp32."""
    with autocast(train, batch.input_ids.device):
        hidden = replays.hidden(batch.input_ids, batch.model_inputs)
        return label_loss(hidden, output_head(model), batch.targets, batch.positions, batch.head_calls)
