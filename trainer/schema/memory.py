"""Whether all parameters of a model can be trained on given GPUs: arithmetic that kctl and the trainer share."""

import math
from typing import Literal

STATE_BYTES = {"bf16": 18, "fp32": 20}
"""A parameter's, divided by the ranks: the weight, and in fp32 the sum of its gradients, its master, two moments."""
TOKEN_BYTES = 1_800_000
"""A row's token beside the state, roughly: Qwen3 4B took 14 GiB for rows of 8,192 tokens on one GPU, with all layers
recomputed; gathered weights and buffers are in it."""
ROW = 8192
"""Tokens of a row on a GPU, where ops.max_tokens is auto."""
_USABLE = 0.96
"""Of a GPU's memory; trainer.fast.memory_plan.MARGIN is the rest."""
_MULTIPLE = 128


def too_large(
    precision: Literal["bf16", "fp32"], parameters: int, gpus: int, gpu_bytes: float, row: int = ROW
) -> str | None:
    """Why `parameters` cannot all be trained by `gpus` with rows of `row` tokens, and what may fit; None where it may.

    An estimate: it refuses what has no chance and lets pass what is close.
    """
    state, usable = STATE_BYTES[precision] * parameters / gpus, _USABLE * gpu_bytes
    if state + TOKEN_BYTES * row <= usable:
        return None
    need = f"{state / 2**30:.1f} GiB of state and about {TOKEN_BYTES * row / 2**30:.1f} for rows of {row:,} tokens"
    remedies = ["GPUs with more memory", "method lora"]
    rest = usable - TOKEN_BYTES * row
    if rest > 0:
        remedies.insert(0, f"{math.ceil(state * gpus / rest)} such GPUs")
    tokens = int((usable - state) / TOKEN_BYTES) // _MULTIPLE * _MULTIPLE
    if tokens >= _MULTIPLE:
        remedies.insert(0, f"train.ops.max_tokens: {tokens} if no item is longer")
    return (
        f"train.method full: {parameters / 1e9:.3g} billion parameters need {need} on each of {gpus} GPUs, "
        f"of whose {gpu_bytes / 2**30:.1f} GiB {usable / 2**30:.1f} can be used; what may fit: {', or '.join(remedies)}"
    )
