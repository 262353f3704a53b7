"""How many tokens a row may have and which layers are recomputed in backward, measured on the loaded model.

What a row needs grows with its tokens. Two small rows with every layer kept give the slope, and where that is
too much, two with every layer recomputed; the plan is the fastest one that fits into the memory that is free.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trainer.fast.attention import packed_inputs
from trainer.fast.layers import decoder_layers, recompute_first
from trainer.fast.loss import forward_hidden

CEILINGS = (16_384, 12_288, 8_192, 4_096, 3_072)
"""Tokens a row, the fastest first. Rows below the last are so short that recomputing layers costs less."""
MARGIN = 0.04
"""Share of the device's memory that is left free: for the engine's step, what the allocator cannot use, and libraries'
own buffers."""
PROBED = (1_024, 3_072)
"""Tokens of the rows that are measured."""
ALL_LAYERS = 1_000_000
"""However many the model has."""
TOO_MUCH = 1e9
"""Bytes a token, where even the measured row does not fit with all layers kept."""
ITEM = 256
"""Tokens of an item in them."""


@dataclass(frozen=True)
class Costs:
    """Bytes that a row's forward and backward need beyond what is there before: fixed + tokens * a slope."""

    fixed: float
    kept: float
    """Slope with all layers kept."""
    recomputed: float
    """Slope with all layers recomputed."""
    layers: int

    def peak(self, tokens: int, recomputed: int) -> float:
        """With the first `recomputed` layers recomputed, one of which is then kept at a time."""
        share = recomputed / self.layers
        one = self.kept / self.layers if 0 < recomputed < self.layers else 0.0
        return self.fixed + tokens * ((1 - share) * self.kept + share * self.recomputed + one)


@dataclass(frozen=True)
class MemoryPlan:
    """What the run does: rows of at most `ceiling` tokens, the first `recomputed` layers recomputed."""

    ceiling: int
    recomputed: int
    costs: Costs | None = None
    """None where nothing was measured."""
    held: float = 0.0
    """Bytes of weights, adapters and what the engine keeps for them."""
    momentary: float = 0.0
    """Bytes that the engine's step takes for a moment, no row being under way; recorded rows keep theirs meanwhile."""

    def peak(self, tokens: int) -> float:
        """Bytes that torch will have reserved after rows of at most so many tokens; 0 if nothing was measured."""
        return self.held + self.momentary + self.costs.peak(tokens, self.recomputed) if self.costs else 0.0


def choose(costs: Costs, free: float, tokens: int, longest: int) -> MemoryPlan:
    """The fastest plan for rows of at most `tokens` (a rank's share of a step) that fits into `free` bytes.

    Where none fits, the smallest: rows of the `longest` item and every layer recomputed.
    """
    ceilings = [max(longest, min(tokens, ceiling)) for ceiling in CEILINGS]
    for ceiling in ceilings:
        if costs.peak(ceiling, 0) <= free:
            return MemoryPlan(ceiling, 0, costs)
    for ceiling in (ceilings[-1], max(longest, min(tokens, CEILINGS[-1] // 2)), longest):
        for recomputed in range(1, costs.layers + 1):
            if costs.peak(ceiling, recomputed) <= free:
                return MemoryPlan(ceiling, recomputed, costs)
    return MemoryPlan(longest, costs.layers, costs)


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
