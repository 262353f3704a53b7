"""One row of ours: the trainer's own setup and steps, DeepSpeed's engine, clipping and optimizer included."""

import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from trainer.batches import build_batches, plan_step
from trainer.bench.work import Row, model_config, random_model, write_items
from trainer.distributed import Ranks, join, leave
from trainer.engine import backward
from trainer.fast.layers import graphs
from trainer.model import prepare_model
from trainer.run import Run
from trainer.schema import contract
from trainer.schema.config import TrainConfig
from trainer.schema.identity import run_name
from trainer.schema.loading import RunFile, validated
from trainer.train import setup, train_step

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["gate_proj", "up_proj", "down_proj"]


def run_config(row: Row) -> TrainConfig:
    """lora_di3's optimizer on the row's model."""
    lora = {"rank": row.rank, "alpha": 2 * row.rank, "dropout": row.dropout, "targets": ATTENTION}
    if row.expert_rank:
        lora |= {"targets": ATTENTION + EXPERTS, "expert_rank": row.expert_rank}
    value: dict[str, Any] = {
        "model": {"path": row.model},
        "data": {"path": "made-up", "format": "messages", "max_length": max(1024, row.longest)},
        "method": row.method,
        "optim": {"lr": 2e-4, "max_grad_norm": 0.5},
        "global_batch_size": row.items,
        "epochs": 1000,
        "precision": "bf16" if torch.cuda.is_available() else "fp32",
    }
    if row.method == "lora":
        value["lora"] = lora | row.fields.get("lora", {})
    other = {name: given for name, given in row.fields.items() if name != "lora"}
    return validated(TrainConfig, value | other, "bench")


def measure(row: Row) -> dict[str, Any]:
    """Train row.steps steps of the row; figures by name."""
    root = Path(tempfile.mkdtemp())
    write_items(row, root / "data")
    model_config(row.model).save_pretrained(root / "models" / row.model)  # check_full counts by it
    where = {contract.ENV_PREPARED: "data", contract.ENV_MODELS: "models", contract.ENV_RUN_FOLDER: "run"}
    os.environ.update({name: str(root / part) for name, part in where.items()})
    train = run_config(row)
    ranks = join()
    _limit(row, ranks)
    start = time.monotonic()

    def load(config: TrainConfig, _: Path, device: torch.device) -> Any:
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        return prepare_model(random_model(row, device, dtype), config, device)

    run = setup(RunFile(run_name("bench", train), train), ranks, load)
    ready = time.monotonic() - start
    seconds, compiled = [], graphs()
    for step in range(row.steps):
        begun = time.monotonic()
        result = train_step(run, step, wanted=False)  # ends with numbers on the host: nothing is still running
        seconds.append(time.monotonic() - begun)
    later = statistics.median(seconds[1:])
    found = {
        "tokens": result.tokens,
        "seconds": later,
        "tokens_per_s": result.tokens / later,
        "ready_seconds": ready,
        "first_seconds": seconds[0],
        "loss": result.loss,
        "graphs_after_warm_up": graphs() - compiled,
        "ceiling": run.packing.ceiling,
        "recomputed": run.plan.recomputed,
        "planned_gib": run.plan.peak(longest_row(run)) / 2**30,
        **memory(ranks.device),
        **({"waits": waits(run)} if ranks.device.type == "cuda" else {}),
    }
    leave()
    return found


def longest_row(run: Run) -> int:
    """Tokens of the longest row of a step, padding included."""
    plan, multiple = plan_step(0, run.data.train, run.train, run.packing), run.packing.multiple
    tokens = (sum(run.data.train.length(item) for item in row) for own in plan.rows for row in own)
    return max(-(-one // multiple) * multiple for one in tokens)


def _limit(row: Row, ranks: Ranks) -> None:
    told = row.gpu_gib or row.max_gib
    if told and ranks.device.type == "cuda":
        total = torch.cuda.get_device_properties(ranks.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, told * 2**30 / total), ranks.device)


def waits(run: Run) -> list[str]:
    """Where the host waits for the GPU between a step's first forward and its last backward; [] is as it should be."""
    plan = plan_step(0, run.data.train, run.train, run.packing)
    batches = build_batches(run.data.train, plan.rows, run.ranks.rank, run.packing, run.ranks.device)
    scale = torch.tensor(1.0, device=run.ranks.device)
    with warnings.catch_warnings(record=True) as caught, run.engine.coalesce_grad_reduction():
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for batch in batches:
                backward(run.engine, batch, scale)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waited = [one for one in caught if "called a synchroniz" in str(one.message)]
    return sorted({f"{one.filename}:{one.lineno}" for one in waited})


def memory(device: torch.device) -> dict[str, float]:
    """GiB at the worst moment: reserved by torch, in use of that, and what the process holds beside (CUDA, NCCL)."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    peaks = torch.cuda.max_memory_reserved(device), torch.cuda.max_memory_allocated(device), beside
    return dict(zip(("reserved_gib", "used_gib", "beside_gib"), (value / 2**30 for value in peaks), strict=True))
