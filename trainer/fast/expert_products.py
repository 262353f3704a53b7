"""The grouped products of a mixture's experts: torch's everywhere, quack's on Hopper, which reads rows where they lie.

quack comes with flash-attn-4.
"""

import functools
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.fast.expert_kernels import grouped


def product(rows: Tensor, weight: Tensor, ends: Tensor, token: Tensor | None = None) -> Tensor:
    """rows (S, in), or those that `token` (S,) int32 names of (T, in), times their expert's weight (E, out, in)
    -> (S, out). `ends` (E,) int32: where each expert's rows end."""
    if rows.is_cuda and rows.dtype in (torch.bfloat16, torch.float16) and usable(rows.device):
        return _quack(rows, weight, ends, token)
    return grouped(rows if token is None else rows[token], weight, ends)


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether quack is installed, made for this GPU, and computes the same as torch here."""
    if importlib.util.find_spec("quack") is None or torch.cuda.get_device_capability(device)[0] != 9:
        return False
    try:
        return _agrees(device)
    except (ImportError, RuntimeError, TypeError, AttributeError, AssertionError):
        return False  # another version of it or of its compiler


def _quack(rows: Tensor, weight: Tensor, ends: Tensor, token: Tensor | None) -> Tensor:
    from quack.gemm_interface import gemm_tuned

    out = rows.new_empty(rows.shape[0] if token is None else token.shape[0], weight.shape[1])
    tiles = _tiles(token is not None)
    gemm_tuned.fn(rows, weight.mT, out, cu_seqlens_m=F.pad(ends, (1, 0)), A_idx=token, config=tiles)
    return out


@functools.cache
def _tiles(gathers: bool) -> Any:
    """The fastest of nine on an H200, for rows of 4,096 and of 8,192 tokens."""
    from quack.gemm_config import GemmConfig

    cluster = 2 if gathers else 1
    return GemmConfig(tile_m=128, tile_n=256, pingpong=False, cluster_m=cluster, is_dynamic_persistent=False)


def _agrees(device: torch.device) -> bool:
    """Rows where they lie and gathered, weights as stored and transposed: 200 rows of 4 experts, one without any."""
    generator = torch.Generator(device).manual_seed(0)
    sizes = ((100, 128), (200, 256), (4, 256, 128))
    hidden, rows, weight = (torch.randn(size, device=device, generator=generator).bfloat16() for size in sizes)
    token = torch.arange(200, device=device, dtype=torch.int32) // 2
    ends = torch.tensor([70, 70, 131, 200], device=device, dtype=torch.int32)
    pairs = (
        (_quack(hidden, weight, ends, token), grouped(hidden[token], weight, ends)),
        (_quack(rows, weight.mT, ends, None), grouped(rows, weight.mT, ends)),
    )
    return all(bool((one - other).float().norm() < 0.02 * other.float().norm()) for one, other in pairs)
