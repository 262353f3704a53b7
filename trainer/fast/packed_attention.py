"""Causal attention inside each item of a packed row, as one operator that a compiler takes whole.

On Hopper and later GPUs it is flash-attn 4; written out in plain torch, which is the reference, everywhere else.
q (T, heads, D), k and v (T, kv heads, D); item i is bounds[i] : bounds[i + 1], int32.
"""

import functools
import importlib.util
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@functools.cache
def flash_fits(device: torch.device) -> bool:
    """Whether flash-attn 4 is installed and made for this GPU."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] not in (9, 10):
        return False
    return (
        importlib.util.find_spec("flash_attn") is not None and importlib.util.find_spec("flash_attn.cute") is not None
    )


def packed_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scale: float) -> Tensor:
    """softmax(scale q k^T) v inside every item, (T, heads, D); no item has more than `longest` tokens."""
    out: Tensor = _forward(q.contiguous(), k.contiguous(), v.contiguous(), bounds, longest, scale)[0]
    return out


@torch.library.custom_op("kctl::attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scale: float) -> tuple[Tensor, Tensor]:
    """(out (T, heads, D), log of the softmax's denominators (heads, T) fp32)."""
    if flash_fits(q.device):
        from flash_attn.cute.interface import _flash_attn_fwd

        out, denominators, *_ = _flash_attn_fwd(
            q, k, v, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=longest, max_seqlen_k=longest,
            softmax_scale=scale, causal=True, return_lse=True,
        )  # fmt: skip
        return out, denominators
    out, denominators = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    for start, end, scores, values in _scored(q, k, v, bounds, scale):
        denominators[:, start:end] = scores.logsumexp(-1).flatten(0, 1)
        out[start:end] = (scores.softmax(-1) @ values).flatten(0, 1).transpose(0, 1)
    return out, denominators


@_forward.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


@torch.library.custom_op("kctl::attention_backward", mutates_args=())
def _backward(
    given: Tensor, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, out: Tensor, denominators: Tensor, longest: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v."""
    if flash_fits(q.device):
        from flash_attn.cute.interface import _flash_attn_bwd

        of_q, of_k, of_v, *_ = _flash_attn_bwd(
            q, k, v, out, given, denominators, softmax_scale=scale, causal=True, cu_seqlens_q=bounds,
            cu_seqlens_k=bounds, max_seqlen_q=longest, max_seqlen_k=longest,
        )  # fmt: skip
        return of_q, of_k, of_v
    of_q, of_k, of_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    groups = q.shape[1] // k.shape[1]
    for start, end, scores, values in _scored(q, k, v, bounds, scale):
        queries, of_out = (_heads(tensor[start:end], groups) for tensor in (q, given))
        shares, of_shares = scores.softmax(-1), of_out @ values.mT
        of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdim=True)) * scale
        of_q[start:end] = (of_scores @ _heads(k[start:end], 1)).flatten(0, 1).transpose(0, 1)
        of_k[start:end] = (of_scores.mT @ queries).sum(1).transpose(0, 1)
        of_v[start:end] = (shares.mT @ of_out).sum(1).transpose(0, 1)
    return of_q, of_k, of_v


@_backward.register_fake
def _(given: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.longest, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, given: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *_backward(given.contiguous(), *ctx.saved_tensors, ctx.longest, ctx.scale), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _heads(tensor: Tensor, groups: int) -> Tensor:
    """(n, heads, D) -> (kv heads, groups, n, D), fp32 or wider."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.transpose(0, 1).unflatten(0, (-1, groups)).to(wide)


def _scored(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, scale: float) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """(start, end, masked scores (kv heads, groups, n, n), values (kv heads, 1, n, D)) of every item."""
    for start, end in itertools.pairwise(bounds.tolist()):
        queries, keys = _heads(q[start:end], q.shape[1] // k.shape[1]), _heads(k[start:end], 1)
        later = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu(1)
        yield start, end, (queries @ keys.mT * scale).masked_fill(later, -torch.inf), _heads(v[start:end], 1)
