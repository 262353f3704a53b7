"""DeepSpeed's engine: its configuration as a pure function, and one optimiser step on it.

LoRA: the adapters are fp32 parameters and the engine owns nothing else, so gradient sums, their reduction,
master weights and moments are fp32 by construction (under bf16 the forward runs in autocast) and no frozen
weight is broadcast at start. Full: the whole model under ZeRO-3 with bf16 parameters and fp32 masters.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trainer.batches import Batch
from trainer.flat import Flat, flatten
from trainer.model import parameter_groups
from trainer.schema.config import TrainConfig
from trainer.schema.memory_plan import BUCKET

Losses = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]
"""(sum of cross entropy over a row's labels with a graph, each label's without), fp32."""


def deepspeed_config(train: TrainConfig, cuda: bool) -> dict[str, Any]:
    """The DeepSpeed section, and nothing that a user would have to know."""
    full = train.method == "full"
    zero: dict[str, Any] = {
        "stage": 3 if full else 2,
        "overlap_comm": cuda,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": BUCKET,
    }
    if full:
        zero |= {"stage3_prefetch_bucket_size": BUCKET, "stage3_param_persistence_threshold": 100_000}
        if train.ops.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    else:
        zero |= {"allgather_bucket_size": 200_000_000}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.optim.max_grad_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": full and train.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "timers": {"throughput": {"enabled": False}},
        "steps_per_print": None,
    }


class Owned(nn.Module):
    """What the engine sees: the parameters it moves, and a forward through the model they live in.

    ZeRO-3 gathers by module, so there the whole model is registered; LoRA registers the long tensors that the
    adapters are pieces of.
    """

    def __init__(self, parameters: list[Flat] | nn.Module, losses: Losses) -> None:
        super().__init__()
        self.flats = [] if isinstance(parameters, nn.Module) else parameters
        own = nn.ParameterList(flat.parameter for flat in self.flats)
        self.owned = parameters if isinstance(parameters, nn.Module) else own
        self._losses = losses

    def forward(self, batch: Batch, scale: torch.Tensor | None = None) -> torch.Tensor:
        """The row's summed cross entropy times `scale` (world size / labels of the step); without: each label's."""
        total, each = self._losses(batch)
        return each if scale is None else total * scale


def initialise(model: nn.Module, losses: Losses, train: TrainConfig, device: torch.device) -> Any:
    """The engine over what the model trains; torch's AdamW is passed in, so nothing is compiled at start.

    With offload its step is the host's work: on a machine with GPUs each rank gets its share of the cores for that.
    """
    import deepspeed
    from deepspeed.runtime import compiler

    # Else an optimiser of DeepSpeed's own, which we do not use, would load torch's compiler: 2 s of every rank's start.
    compiler.compile = lambda: compiler.dummy_decorator
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    cuda = device.type == "cuda"
    if cuda and train.ops.offload:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // torch.cuda.device_count()))
    optim, groups = train.optim, parameter_groups(model, train)
    if train.method == "lora":
        groups, flats = flatten(groups, {parameter: name for name, parameter in model.named_parameters()})
        owned = Owned(flats, losses)
    else:
        owned = Owned(model, losses)
    optimizer = torch.optim.AdamW(
        groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=cuda
    )
    engine, *_ = deepspeed.initialize(model=owned, optimizer=optimizer, config=deepspeed_config(train, cuda))
    for flat in owned.flats:
        flat.tie()
    return engine


def create_moments(optimizer: torch.optim.Optimizer, flats: Iterable[torch.Tensor], updates: int) -> None:
    """What AdamW makes at its first step, zeros after so many updates: a resumed run needs it before."""
    for flat in flats:
        optimizer.state[flat] = {
            "step": torch.tensor(float(updates), device=flat.device),
            "exp_avg": torch.zeros_like(flat.data),
            "exp_avg_sq": torch.zeros_like(flat.data),
        }


def set_learning_rate(engine: Any, rate: float) -> None:
    """The rate of the next step; a group's `lr_scale` (experts) multiplies it."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def accumulate(engine: Any, batches: Iterable[Batch], scale: torch.Tensor) -> torch.Tensor:
    """Backward of every row and the reduction over ranks; returns this rank's summed scaled loss, fp64, on the device.

    LoRA: ONE reduction at the end, so ranks may bring different numbers of rows.
    """
    total = torch.zeros((), device=scale.device, dtype=torch.float64)
    flats = engine.module.flats
    for flat in flats:
        flat.clear_gradient()
    # A whole model's gradients do not fit on each rank: under ZeRO-3, whose ranks have equally many rows, those of a
    # row are reduced as they are made, and a rank sums up its own share.
    with engine.coalesce_grad_reduction() if flats else contextlib.nullcontext():
        for batch in batches:
            total += backward(engine, batch, scale)
    return total


def backward(engine: Any, batch: Batch, scale: torch.Tensor) -> torch.Tensor:
    """Forward and backward of one row, its gradients added to what is there; returns the scaled loss.

    A loss that is no number may have gradients that are numbers. Here it has none, so that the engine leaves the step
    out on every rank, without a look at the loss in between: times 1, or times NaN.
    """
    if engine.module.flats:  # the engine's own hooks would wait for gradients that arrive through the adapters
        loss: torch.Tensor = engine.module(batch, scale)
        (loss * (1 + (loss - loss).detach())).backward()
    else:
        loss = engine(batch, scale)
        engine.backward(loss * (1 + (loss - loss).detach()), scale_wrt_gas=False)
    return loss.detach()


def update(engine: Any) -> torch.Tensor | float:
    """Clip and step; returns the gradient norm before clipping (a number or a scalar tensor).

    With a gradient that is no number on any rank nothing is changed on all of them, and the norm is infinite.
    """
    engine.set_gradient_accumulation_boundary(True)
    engine.step()
    return engine.get_global_grad_norm()
