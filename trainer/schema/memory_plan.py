"""How many tokens a row of a LoRA run may have, and how many layers are recomputed in backward: the fastest plan that
fits into the memory that is free.

What a row needs grows with its tokens. The trainer measures how fast, on the loaded model (trainer.fast.row_costs);
kctl counts it from the model's sizes (trainer.schema.row_bytes). What is made of it here is the same.
"""

from dataclasses import dataclass, replace
from typing import Literal

from trainer.schema.config import TrainConfig
from trainer.schema.packing import ROW_MULTIPLE

CEILINGS = (16_384, 12_288, 8_192, 4_096, 3_072)
"""Tokens a row, the fastest first. Rows below the last are so short that recomputing layers costs less."""
MARGIN = 0.03
"""Share of the device's memory that is left free: for what the allocator cannot use, logits, and libraries' own
buffers. Rows reserved up to 1.9 GiB more than was planned for them (trainer/bench/README.md)."""
ALL_LAYERS = 1_000_000
"""However many the model has."""
BUCKET = 50_000_000
"""Elements that are reduced at once; the usual 5e8 costs GBs of buffers and gains nothing for adapters."""
MOMENTARY = 8
"""Bytes of each trained value of a rank's share that the engine's step takes for a moment: two copies of its
gradient, by DeepSpeed's code (copy_grads_in_partition, then flatten), no measurement."""
SPREAD = 1.25
"""A step's tokens over the mean of all steps: more are rare, and then cost a second row."""


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


def planned(
    costs: Costs, free: float, tokens: int, longest: int, recompute: Literal["auto", "none", "full"]
) -> MemoryPlan:
    """As choose(), with the layers recomputed that ops.recompute asks for."""
    plan = choose(costs, free, tokens, longest)
    return replace(plan, recomputed={"auto": plan.recomputed, "none": 0, "full": costs.layers}[recompute])


def wanted_tokens(mean: float, train: TrainConfig, ranks: int) -> int:
    """Tokens of the longest row that pays: a rank's share of a step of items of `mean` tokens, or ops.max_tokens."""
    share = int(mean * train.global_batch_size / ranks * SPREAD)
    tokens = -(-share // ROW_MULTIPLE) * ROW_MULTIPLE
    return tokens if train.ops.max_tokens == "auto" else min(tokens, train.ops.max_tokens)


def engine_bytes(trained: int, ranks: int) -> dict[str, float]:
    """What lies beside each rank's fp32 adapters once the engine is there, by part.

    The gradients' sum is whole on every rank; the engine's own copy and two moments are divided over them.
    """
    return {"gradients": 4.0 * trained, "optimizer": 12 / ranks * trained, "buckets": 8.0 * min(trained, BUCKET)}


def momentary_bytes(trained: int, ranks: int) -> float:
    """What the engine's step takes for a moment, beside what rows keep: of a rank's share, and of the tensor of
    trainer.flat, at most half a BUCKET long, that lies in it in part alone."""
    return float(MOMENTARY * min(trained, trained / ranks + BUCKET / 2))
