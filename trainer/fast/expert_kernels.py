"""The elementwise and gathering parts of a mixture's experts: plain torch as the reference, Triton on CUDA.

Rows are (token, choice) pairs in the order of their experts; `ends` (E,) int32 says where each expert's rows end. Plain
and Triton round alike: fp32 inside, one rounding at the end. An adapter of rank r acts on a row through two thin
tensors: what comes in is multiplied by A to (S, r), and B takes that to the row's width.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_BLOCK = 1024
"""Columns that one Triton program holds at once where it looks at one row."""
PLAIN, ADAPTED = (8, 256, 4), (64, 32, 4)
"""Rows and columns of one step of a Triton program that looks at an expert's rows, and its warps: the fastest of
sixteen on an H200, without and with adapters."""
THINNEST = 16
"""Triton multiplies no narrower blocks: ranks are padded to powers of two from here on."""


def gather_sum(rows: Tensor, places: Tensor, weights: Tensor | None, choices: int) -> Tensor:
    """sum over j of weights[t, j] * rows[places[t * choices + j]] -> (T, H).

    rows (T choices, H), places (T choices,) int32, weights (T, choices) or None for ones.
    """
    if _on_triton(rows):
        return _gather_sum_triton(rows, places, weights, choices)
    picked = rows[places].view(-1, choices, rows.shape[1]).to(wide(rows))
    if weights is not None:
        picked = picked * weights[:, :, None].to(picked.dtype)
    return picked.sum(1).to(rows.dtype)


def adapted_swiglu(
    inner: Tensor, thin_in: Tensor | None, b_in: Tensor | None, a_out: Tensor | None, ends: Tensor
) -> tuple[Tensor, Tensor | None]:
    """(y = swiglu(inner + thin_in b_in^T) (S, I), y a_out^T (S, r) or None).

    inner (S, 2 I), whose first half is the gate; thin_in (S, r), already scaled; b_in (E, 2 I, r); a_out (E, r, I).
    """
    if _on_triton(inner):
        return _adapted_swiglu_triton(inner, thin_in, b_in, a_out, ends)
    gate, up = _adapted(inner, thin_in, b_in, ends).chunk(2, -1)
    active = (F.silu(gate) * up).to(inner.dtype)
    return active, None if a_out is None else grouped(active, a_out, ends)


def adapted_swiglu_backward(
    inner: Tensor,
    thin_in: Tensor | None,
    b_in: Tensor | None,
    a_out: Tensor | None,
    ends: Tensor,
    grad: Tensor,
    thin_grad: Tensor | None,
    weights: Tensor,
    again: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Of weights * adapted_swiglu(...), where y's gradient before its weight is grad + thin_grad a_out.

    grad (S, I), thin_grad (S, r), weights (S,). Returns the gradients of inner (S, 2 I) and of weights (S,) in fp32 or
    wider, y (S, I) if it is wanted `again`, and gradient of inner times b_in (S, r) or None.
    """
    if _on_triton(inner):
        return _adapted_swiglu_backward_triton(inner, thin_in, b_in, a_out, ends, grad, thin_grad, weights, again)
    gate, up = _adapted(inner, thin_in, b_in, ends).chunk(2, -1)
    sigmoid, given = torch.sigmoid(gate), grad.to(wide(inner))
    if thin_grad is not None and a_out is not None:
        given = given + grouped(thin_grad.to(given.dtype), a_out.to(given.dtype).mT, ends)
    silu = gate * sigmoid
    weighted, active = given * weights.to(given.dtype)[:, None], silu * up
    of_gate = weighted * up * (sigmoid + silu * (1 - sigmoid))
    of_inner = torch.cat((of_gate, weighted * silu), -1).to(inner.dtype)
    thin_inner = None if b_in is None else grouped(of_inner, b_in.mT, ends)
    return of_inner, (given * active).sum(-1), active.to(inner.dtype) if again else None, thin_inner


def _adapted(inner: Tensor, thin_in: Tensor | None, b_in: Tensor | None, ends: Tensor) -> Tensor:
    whole = inner.to(wide(inner))
    if thin_in is None or b_in is None:
        return whole
    return whole + grouped(thin_in.to(whole.dtype), b_in.to(whole.dtype), ends)


def grouped(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Each row times its expert's matrix: rows (S, in), weight (E, out, in) -> (S, out)."""
    return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)


def wide(tensor: Tensor) -> torch.dtype:
    """fp32, or fp64 for what is fp64."""
    return torch.promote_types(tensor.dtype, torch.float32)


# --------------------------------------------------------------------------------------------------------------
# the same in Triton, which is imported where it runs: not every machine has it


def _on_triton(tensor: Tensor) -> bool:
    return tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def _gather_sum_triton(rows: Tensor, places: Tensor, weights: Tensor | None, choices: int) -> Tensor:
    from trainer.fast import expert_triton

    tokens, width = places.numel() // choices, rows.shape[1]
    out = rows.new_empty(tokens, width)
    block = min(MAX_BLOCK, 1 << (width - 1).bit_length())
    given = rows if weights is None else weights.contiguous()
    grid = (tokens, -(-width // block))
    expert_triton.gather_sum[grid](rows, places, given, out, width, choices, weights is not None, block)
    return out


def _adapted_swiglu_triton(
    inner: Tensor, thin_in: Tensor | None, b_in: Tensor | None, a_out: Tensor | None, ends: Tensor
) -> tuple[Tensor, Tensor | None]:
    from trainer.fast import expert_triton

    width = inner.shape[1] // 2
    active = inner.new_empty(inner.shape[0], width)
    thin_out = None if a_out is None else inner.new_empty(inner.shape[0], a_out.shape[1])
    tensors = (inner, thin_in, b_in, a_out, ends, active, thin_out)
    rows, columns, warps = _steps(thin_in, thin_out)
    sizes = (*_sizes(thin_in, thin_out, ends, width), rows, columns)
    expert_triton.adapted_swiglu[_programs(inner, ends, rows)](*_given(tensors, inner), *sizes, num_warps=warps)
    return active, thin_out


def _adapted_swiglu_backward_triton(
    inner: Tensor,
    thin_in: Tensor | None,
    b_in: Tensor | None,
    a_out: Tensor | None,
    ends: Tensor,
    grad: Tensor,
    thin_grad: Tensor | None,
    weights: Tensor,
    again: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    from trainer.fast import expert_triton

    of_inner, active = torch.empty_like(inner), torch.empty_like(grad) if again else None
    of_weights = torch.empty(inner.shape[0], device=inner.device, dtype=torch.float32)
    thin_inner = None if thin_in is None else torch.empty_like(thin_in)
    tensors = (inner, thin_in, b_in, a_out, ends, grad, thin_grad, weights, of_inner, of_weights, active, thin_inner)
    rows, columns, warps = _steps(thin_in, thin_grad)
    sizes = (*_sizes(thin_in, thin_grad, ends, inner.shape[1] // 2), rows, columns, again)
    programs = _programs(inner, ends, rows)
    expert_triton.adapted_swiglu_backward[programs](*_given(tensors, inner), *sizes, num_warps=warps)
    return of_inner, of_weights, active, thin_inner


def _given(tensors: tuple[Tensor | None, ...], instead: Tensor) -> list[Tensor]:
    """What a kernel receives: `instead` for what is not there, which it then does not touch."""
    return [instead if tensor is None else tensor for tensor in tensors]


def _sizes(thin_in: Tensor | None, thin_out: Tensor | None, ends: Tensor, width: int) -> tuple[int, ...]:
    experts = 1 << (ends.numel() - 1).bit_length()
    ranks = (0 if thin is None else thin.shape[1] for thin in (thin_in, thin_out))
    return (width, ends.numel(), experts, *ranks)


def _steps(thin_in: Tensor | None, thin_out: Tensor | None) -> tuple[int, int, int]:
    return PLAIN if thin_in is None and thin_out is None else ADAPTED


def _programs(tensor: Tensor, ends: Tensor, rows: int) -> tuple[int]:
    """As many as there can be blocks of `rows` rows of one expert."""
    return (tensor.shape[0] // rows + ends.numel(),)
