"""How rows are sized and layers recomputed, and the lines that say so before the first step."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from trainer.base_model import model_folder
from trainer.batches import Packing
from trainer.dataset.prepared import Items, load_prepared
from trainer.distributed import Ranks
from trainer.metrics import say
from trainer.model import meta_counts
from trainer.schedule import steps_per_epoch, total_steps
from trainer.schema import contract
from trainer.schema.config import TrainConfig
from trainer.schema.loading import RunFile

ROW_MULTIPLE = 128
"""Row lengths on a GPU are multiples of this, so that shapes are few."""


def recompute(train: TrainConfig, device: torch.device, level: int) -> bool:
    """Whether layers are recomputed in the backward pass; the plan after out of memory always does."""
    wanted = train.ops.recompute
    return wanted == "full" or level > 0 or (wanted == "auto" and device.type == "cuda")


def recompute_layers(model: Any) -> None:
    """Recompute every layer in the backward pass, whichever name this transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def row_ceiling(train: TrainConfig, device: torch.device, longest: int, level: int) -> int:
    """Most tokens in a packed row: as told, or 8,192 on a GPU and 1,024 on a CPU; halved after out of memory."""
    auto = 8192 if device.type == "cuda" else 1024
    told = auto if train.ops.max_tokens == "auto" else train.ops.max_tokens
    return max(longest, told >> level)


def packing_of(train: TrainConfig, ranks: Ranks, data: Items, packed: bool, level: int) -> Packing:
    """How this run makes its rows; the ceiling holds the longest item."""
    longest = max(data.length(item) for item in range(len(data)))
    ceiling = row_ceiling(train, ranks.device, longest, level)
    multiple = ROW_MULTIPLE if ranks.device.type == "cuda" else 1
    return Packing(ranks.world, ceiling, packed, equal_rows=train.method == "full", multiple=multiple)


def quiet_libraries(rank: int) -> None:
    """No progress bars, no notices that only the libraries' own developers can act on, nothing said by every rank."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    if rank > 0:
        logging.set_verbosity_error()
        warnings.simplefilter("ignore")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def versions(ranks: Ranks, kernel: str, unpacked: str | None) -> str:
    """First line of the log: what runs on what."""
    import deepspeed
    import peft
    import transformers

    where = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu"
    rows = f"packed rows, attention {kernel}" if unpacked is None else f"one item a row ({unpacked})"
    return (
        f"torch {torch.__version__} transformers {transformers.__version__} peft {peft.__version__} "
        f"deepspeed {deepspeed.__version__}; {ranks.world} ranks on {where}; {rows}"
    )


def batch_arithmetic(train: TrainConfig, items: int, packing: Packing) -> list[str]:
    """Third line of the log: how items become steps."""
    per_epoch, steps = steps_per_epoch(items, train), total_steps(items, train)
    lines = [
        f"{items} items, {train.global_batch_size} a step over {packing.ranks} ranks: {per_epoch} steps an epoch, "
        f"{steps} steps; rows of at most {packing.ceiling} tokens"
    ]
    if train.lora is not None and train.lora.dropout > 0:
        lines.append("dropout > 0: another number of ranks draws other masks, equal only statistically")
    return lines


def dry_run(file: RunFile) -> None:
    """Parameter counts and batch arithmetic, without weights, ranks or a run folder."""
    base = model_folder(file.train, contract.mounted(contract.ENV_MODELS))
    for line in meta_counts(file.train, base).lines():
        say(line)
    prepared = os.environ.get(contract.ENV_PREPARED)
    if prepared:
        world = int(os.environ.get("PET_NNODES", "1")) * int(os.environ.get("PET_NPROC_PER_NODE", "1"))
        ranks = Ranks(0, world, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        data = load_prepared(Path(prepared)).train
        for line in batch_arithmetic(file.train, len(data), packing_of(file.train, ranks, data, True, 0)):
            say(line)
