"""How rows are sized and layers recomputed, and the lines that say so before the first step."""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.audit import trained_parameters
from trainer.base_model import model_folder
from trainer.dataset.prepared import Items, load_prepared
from trainer.distributed import Ranks, network
from trainer.errors import ConfigError
from trainer.fast import artifacts
from trainer.fast.layers import compile_layers, decoder_layers, draws, is_compiled, recompute_first, warm_up
from trainer.fast.replays import Replays
from trainer.fast.row_costs import measure
from trainer.metrics import say
from trainer.model import meta_counts
from trainer.pod.environment import host_memory
from trainer.run import autocast
from trainer.schema import contract
from trainer.schema.config import TrainConfig
from trainer.schema.loading import RunFile
from trainer.schema.memory import ROW, FullRun, Room, full_run, too_large
from trainer.schema.memory_plan import (
    ALL_LAYERS,
    MARGIN,
    Costs,
    MemoryPlan,
    choose,
    engine_bytes,
    momentary_bytes,
    planned,
    wanted_tokens,
)
from trainer.schema.packing import ROW_MULTIPLE, Packing
from trainer.schema.parameters import shape_of
from trainer.schema.schedule import steps_per_epoch, total_steps


def compiled(train: TrainConfig, model: Any, ranks: Ranks) -> str:
    """Compile the layers where that pays, on a GPU and with adapters alone; a word for the log."""
    if train.method == "full" or train.ops.kernels == "reference" or ranks.device.type != "cuda":
        return ""
    folder = contract.RunFolder(Path(os.environ[contract.ENV_RUN_FOLDER])).compiled
    known = artifacts.load(folder, ranks.device)
    recomputed = ALL_LAYERS if level() > 0 or train.ops.recompute == "full" else 0
    said = compile_layers(model, ranks.device, lambda: autocast(train, ranks.device), recomputed)
    if ranks.first and not known:
        artifacts.save(folder, ranks.device)
    return said + (", with what an earlier attempt kept" if known else "")


def level() -> int:
    """How often this attempt ran out of memory already."""
    return int(os.environ.get(contract.ENV_PLAN, "0"))


def told_plan(train: TrainConfig, device: torch.device, longest: int, level: int) -> MemoryPlan:
    """Without a measurement: on a CPU, for a full-parameter run, unpacked rows, and after out of memory, `level` times.

    Rows of max_tokens, or 8,192 on a GPU and 1,024 on a CPU, halved at every level; on a GPU all layers recomputed.
    """
    auto = ROW if device.type == "cuda" else 1024
    told = auto if train.ops.max_tokens == "auto" else train.ops.max_tokens
    wanted = train.ops.recompute
    recomputed = wanted == "full" or level > 0 or (wanted == "auto" and device.type == "cuda")
    return MemoryPlan(max(longest, told >> level), ALL_LAYERS if recomputed else 0)


def check_full(train: TrainConfig, base: Path, ranks: Ranks, data: Items) -> None:
    """Before anything is loaded: ConfigError where not all parameters can be trained on these machines."""
    if train.method != "full" or ranks.device.type != "cuda":
        return
    longest = max(data.length(item) for item in range(len(data)))
    row = told_plan(train, ranks.device, longest, level()).ceiling
    memory = torch.cuda.get_device_properties(ranks.device).total_memory
    memory *= torch.cuda.get_per_process_memory_fraction(ranks.device)
    nodes = ranks.world // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    reason = too_large(_full_run(train, base, row), Room(ranks.world, memory, nodes, host_memory()))
    if reason is not None:
        raise ConfigError(reason)


def _full_run(train: TrainConfig, base: Path, row: int) -> FullRun:
    """Without what is exchanged, whose size was fitted to few runs: what is refused for the rest has no chance."""
    try:
        shape = shape_of(json.loads((base / "config.json").read_text(encoding="utf-8")))
        return replace(full_run(shape, train, row), units=0)
    except ConfigError:  # a kind of model whose sizes kctl does not know
        return FullRun(meta_counts(train, base).total, train.precision, train.ops.offload, row)


def fit_into_memory(model: Any, train: TrainConfig, ranks: Ranks, data: Items, packed: bool) -> MemoryPlan:
    """Choose rows and recomputed layers, and recompute these from now on."""
    plan = plan_memory(model, train, ranks, data, packed)
    recompute_first(model, plan.recomputed)
    if plan.recomputed and is_compiled(model):
        warm_up(model, ranks.device, lambda: autocast(train, ranks.device))  # recomputed layers are graphs of their own
    return plan


def plan_memory(model: Any, train: TrainConfig, ranks: Ranks, data: Items, packed: bool) -> MemoryPlan:
    """The rows and recomputed layers of this run, the same on every rank. LoRA on a GPU: from what is free and what two
    small rows need. An own max_tokens or recompute holds."""
    lengths = [data.length(item) for item in range(len(data))]
    if ranks.device.type != "cuda" or train.method == "full" or level() > 0 or not packed:
        return told_plan(train, ranks.device, max(lengths), level())
    told = wanted_tokens(sum(lengths) / len(lengths), train, ranks.world)
    layers, wanted, bf16 = len(decoder_layers(model)), train.ops.recompute, lambda: autocast(train, ranks.device)
    kept = measure(model, ranks.device, bf16, recomputed=wanted == "full")
    trained = sum(parameter.numel() for _, parameter in trained_parameters(model))
    held, least, fixed, slope = worst([*room(trained, ranks), *kept], ranks)
    costs = Costs(fixed, slope, slope, layers)
    if choose(costs, -least, told, max(lengths)).recomputed and wanted == "auto":
        fixed, slope, all_fixed, all_slope = worst([*kept, *measure(model, ranks.device, bf16, recomputed=True)], ranks)
        costs = Costs(max(fixed, all_fixed), slope, all_slope, layers)
    plan = planned(costs, -least, told, max(lengths), wanted)
    return replace(plan, held=held, momentary=momentary_bytes(trained, ranks.world))


def replayed(replays: Replays, model: Any, plan: MemoryPlan, data: Items, ranks: Ranks) -> str:
    """Record rows from now on where layers are compiled, and not both recomputed and random; a word for the log."""
    if not is_compiled(model) or (plan.recomputed and draws(model)) or ranks.device.type != "cuda":
        return ""
    longest = max(ROW_MULTIPLE, *(data.length(item) for item in range(len(data))))
    adapters = [parameter for _, parameter in trained_parameters(model)]
    replays.begin(adapters, longest, ranks.device, say if ranks.first else lambda _: None)
    return "rows replayed" if replays.on else ""


def worst(values: list[float], ranks: Ranks) -> list[float]:
    """The greatest of all ranks, which must make the same rows."""
    vector = torch.tensor(values, dtype=torch.float64, device=ranks.device)
    dist.all_reduce(vector, dist.ReduceOp.MAX)
    return [float(value) for value in vector.tolist()]


def room(trained: int, ranks: Ranks) -> tuple[float, float]:
    """Bytes of this GPU that the model holds once the engine is there, and, negative, those that rows may use: recorded
    rows keep theirs while the engine steps."""
    engine = sum(engine_bytes(trained, ranks.world).values())
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(ranks.device)
    allowed = torch.cuda.get_per_process_memory_fraction(ranks.device) * total
    rest = min(free, allowed - torch.cuda.memory_reserved(ranks.device)) - engine - MARGIN * min(total, allowed)
    rest -= momentary_bytes(trained, ranks.world)
    return torch.cuda.memory_allocated(ranks.device) + engine, -rest


def packing_of(train: TrainConfig, ranks: Ranks, plan: MemoryPlan, packed: bool) -> Packing:
    """How this run makes its rows; the plan's ceiling holds the longest item."""
    multiple = ROW_MULTIPLE if ranks.device.type == "cuda" else 1
    return Packing(ranks.world, plan.ceiling, packed, equal_rows=train.method == "full", multiple=multiple)


def quiet_libraries(rank: int) -> None:
    """No progress bars, no notices that only the libraries' own developers can act on, nothing said by every rank."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    if rank > 0:
        logging.set_verbosity_error()
        warnings.simplefilter("ignore")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def versions(ranks: Ranks, kernels: list[str], unpacked: str | None) -> str:
    """First line of the log: what runs on what."""
    import deepspeed
    import peft
    import transformers

    where = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu"
    over = "" if (name := network()) is None else f" over NET/{name}"
    rows = f"packed rows, attention {kernels[0]}" if unpacked is None else f"one item a row ({unpacked})"
    return (
        f"torch {torch.__version__} transformers {transformers.__version__} peft {peft.__version__} "
        f"deepspeed {deepspeed.__version__}; {ranks.world} ranks on {where}{over}; "
        + ", ".join([rows, *filter(None, kernels[1:])])
    )


def memory(plan: MemoryPlan) -> list[str]:
    """What the plan means, where one was measured."""
    if plan.costs is None:
        return []
    recomputed = f"{plan.recomputed} layers recomputed" if plan.recomputed else "no layer recomputed"
    held, peak = plan.held / 2**30, plan.peak(plan.ceiling) / 2**30
    return [f"GPU memory: {held:.1f} GiB for weights and optimizer, {peak:.1f} with the longest row, {recomputed}"]


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
        longest = max(data.length(item) for item in range(len(data)))
        packing = packing_of(file.train, ranks, told_plan(file.train, ranks.device, longest, 0), True)
        for line in batch_arithmetic(file.train, len(data), packing):
            say(line)
