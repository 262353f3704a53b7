"""Decoder layers: compiled whole, and recomputed in backward where memory is short.

Compiled, norms, rope, residuals, LoRA and routing become a few kernels between the products. One graph serves every
layer of a kind and every row length. It is made before the first step, on a small row, for training and for evaluation;
nothing is compiled later. Text generation runs the layers as they are.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.errors import first_line
from trainer.fast.attention import packed_inputs
from trainer.fast.loss import causal_model, forward_hidden

LENGTHS = [800, 700, 420]
"""Items of the warm-up's row. No two sizes in a layer are equal, or a graph would take them for one; and the row is so
long that the compiler chooses kernels for long ones."""

KEPT = 0.9
"""Share of what backward needs that the compiler keeps from forward: norms, rope and sums are made again instead, a
fifth of a layer's memory, and no product (by the compiler's own measure products begin below 0.8)."""

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that are compiled or recomputed, each on its own; none inside another."""
    found: dict[str, nn.Module] = {}
    for name, module in causal_model(model).named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, GradientCheckpointingLayer) and not inside:
            found[name] = module
    return list(found.values())


def compile_layers(
    model: nn.Module, device: torch.device, autocast: Autocast, recomputed: int = 0, backend: str = "inductor"
) -> str:
    """Compile and warm up with the first `recomputed` layers recomputed; a sentence for the log. Where the compiler
    gives up, the layers stay as they are."""
    start = time.monotonic()
    layers = decoder_layers(model)
    recompute_first(model, recomputed)  # in any case: a graph is bound to the flag
    for logger in ("torch._dynamo", "torch._inductor"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
    torch._functorch.config.activation_memory_budget = KEPT
    if device.type == "cuda":  # else the compiler spends 20 s on finding out what this CPU's vector unit can do
        torch._inductor.config.cpp.vec_isa_ok = False
    for layer in layers:
        layer.compile(dynamic=True, fullgraph=True, backend=backend)
    try:
        warm_up(model, device, autocast)
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        for layer in layers:
            layer._compiled_call_impl = None
        return f"layers not compiled ({first_line(error)})"
    return f"layers compiled in {time.monotonic() - start:.0f} s"


def warm_up(model: nn.Module, device: torch.device, autocast: Autocast) -> None:
    """One forward and backward in training, one forward in evaluation; gradients are thrown away."""
    ids = torch.arange(sum(LENGTHS), device=device)[None] % 100
    inputs = packed_inputs(LENGTHS, device)
    training = model.training
    try:
        model.train()
        with autocast():
            hidden = forward_hidden(model, ids, inputs)
        hidden.float().square().sum().backward()
        model.eval()
        with torch.no_grad(), autocast():
            forward_hidden(model, ids, inputs)
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)


def recompute_first(model: Any, layers: int) -> None:
    """Recompute the first `layers` decoder layers in backward, keep the others."""
    if layers:
        # transformers 5.22 has another name for it
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False, "preserve_rng_state": draws(model)})
    for place, layer in enumerate(decoder_layers(model)):
        layer.gradient_checkpointing = place < layers  # type: ignore[assignment]


def draws(model: Any) -> bool:
    """Whether a layer draws random numbers in training. Where none does, one that is computed again need not ask for
    the generator's state, which it could not while rows are recorded."""
    told = model.config.get_text_config().to_dict()
    asked = any(value for name, value in told.items() if "drop" in name and isinstance(value, int | float))
    return asked or any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def is_compiled(model: nn.Module) -> bool:
    """Whether the layers run compiled."""
    return any(layer._compiled_call_impl is not None for layer in decoder_layers(model))


def graphs() -> int:
    """How many graphs this process has compiled; after the warm-up it stays as it is."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """The layers as they are, for what would need graphs of its own."""
    layers = decoder_layers(model)
    compiled = [layer._compiled_call_impl for layer in layers]
    for layer in layers:
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, call in zip(layers, compiled, strict=True):
            layer._compiled_call_impl = call
