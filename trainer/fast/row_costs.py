"""What a row needs of the GPU's memory, measured on the loaded model: two small rows give a fixed part and a slope."""

from collections.abc import Callable
from typing import Any

import torch

from trainer.fast.attention import packed_inputs
from trainer.fast.layers import decoder_layers, recompute_first
from trainer.fast.loss import forward_hidden

PROBED = (1_024, 3_072)
"""Tokens of the rows that are measured."""
TOO_MUCH = 1e9
"""Bytes a token, where even the measured row does not fit with all layers kept."""
ITEM = 256
"""Tokens of an item in them."""


def measure(model: Any, device: torch.device, autocast: Callable[[], Any], recomputed: bool) -> tuple[float, float]:
    """(fixed bytes, bytes a token) of a row on this GPU with every layer recomputed, or kept."""
    recompute_first(model, len(decoder_layers(model)) if recomputed else 0)
    try:
        small, large = (_peak(model, device, autocast, tokens) for tokens in PROBED)
    except torch.OutOfMemoryError:
        if recomputed:
            raise
        model.zero_grad(set_to_none=True)
        return 0.0, TOO_MUCH
    slope = (large - small) / (PROBED[1] - PROBED[0])
    return max(0.0, small - slope * PROBED[0]), slope


def _peak(model: Any, device: torch.device, autocast: Callable[[], Any], tokens: int) -> float:
    """Bytes of one row's forward and backward at its worst moment, gradients included."""
    _train_row(model, device, autocast, tokens)  # the first one finds kernels and their workspaces
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _train_row(model, device, autocast, tokens)
    return float(torch.cuda.max_memory_allocated(device) - before)


def _train_row(model: Any, device: torch.device, autocast: Callable[[], Any], tokens: int) -> None:
    model.train()
    ids = torch.arange(tokens, device=device)[None] % ITEM
    with autocast():
        hidden = forward_hidden(model, ids, packed_inputs([ITEM] * (tokens // ITEM), device))
    hidden.float().square().mean().backward()
    model.zero_grad(set_to_none=True)
