"""One layer of a mixture's experts, forward and backward, as one operator that a compiler takes whole.

Rows are (token, choice) pairs in the order of their experts. Forward keeps the tokens, the experts' hidden rows and the
thin products; backward computes no product of forward again. Adapters come and go as PEFT stores them. Their halves on
the tokens' side are whole matrices over all experts, (T, E r) instead of (T k, H): fewer bytes than a product of each
row while the number of experts times the rank is not much more than H.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.fast.expert_kernels import THINNEST, adapted_swiglu, adapted_swiglu_backward, gather_sum, wide
from trainer.fast.expert_products import product

Maybe = Tensor | None


def experts(
    hidden: Tensor,
    index: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    adapters: tuple[Maybe, Maybe, Maybe, Maybe] = (None, None, None, None),
    scales: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """sum over a token's experts e of weights * down_e swiglu(gate_up_e hidden) -> (T, H).

    hidden (T, H); index and weights (T, k), a token's experts distinct; gate_up (E, 2 I, H); down (E, H, I). adapters:
    A (E r, H) and B (2 I, r E) of gate_up, A (E r, I) and B (H, r E) of down, in pairs; the weights' changes are
    scales * B A by expert. Gradients for all but index, of gate_up and down where they are trained.
    """
    out: Tensor = _forward(hidden, index, weights, gate_up, down, *adapters, *scales)[0]
    return out


def expert_order(index: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """int32 for index (T, k): order, row s is pair order[s]; places, its inverse; where each expert's rows end (E,)."""
    ids = index.reshape(-1)
    # As few bits as hold the numbers: the sort's time is theirs.
    ids, order = torch.sort(ids.to(torch.uint8 if experts <= 256 else torch.int32), stable=True)
    places = torch.empty_like(order, dtype=torch.int32)
    places[order] = torch.arange(order.numel(), device=order.device, dtype=torch.int32)
    # As transformers counts: histc keeps everything on the device; on CPU it takes floats only.
    counts = torch.histc(ids.int() if index.is_cuda else ids.float(), bins=experts, min=0, max=experts - 1)
    return order.int(), places, counts.cumsum(0, dtype=torch.int32)


@torch.library.custom_op("kctl::experts", mutates_args=())
def _forward(
    hidden: Tensor,
    index: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    a_in: Maybe,
    b_in: Maybe,
    a_out: Maybe,
    b_out: Maybe,
    s_in: float,
    s_out: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(out, and what backward needs: inner (S, 2 I), thin_in and thin_out (S, r or 0), order, places, ends)."""
    count, choices = gate_up.shape[0], index.shape[1]
    order, places, ends = expert_order(index, count)
    token = order // choices
    which = order if a_in is None and a_out is None else _places(index, order, count)
    thin_in = None if a_in is None else _picked(hidden @ a_in.t(), which, count) * s_in
    inner = product(hidden, gate_up, ends, token)
    active, thin_out = adapted_swiglu(inner, thin_in, _b_in(b_in, count), _a_out(a_out, count), ends)
    out = gather_sum(product(active, down, ends), places, weights, choices)
    if thin_out is not None and b_out is not None:
        spread = _spread(thin_out * (_of_rows(weights, order) * s_out), which, hidden.shape[0], b_out, count)
        out = torch.addmm(out, spread.to(out.dtype), _by_expert(b_out, count).t())
    thin = [hidden.new_empty(order.numel(), 0) if one is None else one for one in (thin_in, thin_out)]
    return out, inner, thin[0], thin[1], order, places, ends


@_forward.register_fake
def _(hidden: Tensor, index: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, gate_up, _, a_in, _, a_out = rest[:6]
    rows = hidden.shape[0] * index.shape[1]
    thin = [
        hidden.new_empty(rows, 0 if a is None else padded_rank(a.shape[0] // gate_up.shape[0])) for a in (a_in, a_out)
    ]
    whole = [index.new_empty(rows, dtype=torch.int32) for _ in range(2)]
    ends = index.new_empty(gate_up.shape[0], dtype=torch.int32)
    return torch.empty_like(hidden), hidden.new_empty(rows, gate_up.shape[1]), *thin, *whole, ends


@torch.library.custom_op("kctl::experts_backward", mutates_args=())
def _backward(
    given: Tensor,
    hidden: Tensor,
    index: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    a_in: Maybe,
    b_in: Maybe,
    a_out: Maybe,
    b_out: Maybe,
    s_in: float,
    s_out: float,
    inner: Tensor,
    thin_in: Tensor,
    thin_out: Tensor,
    order: Tensor,
    places: Tensor,
    ends: Tensor,
    trained: bool,
) -> list[Tensor]:
    """Gradients of hidden, weights, a_in, b_in, a_out, b_out, gate_up and down; (0,) for what has none."""
    count, choices = gate_up.shape[0], weights.shape[1]
    token, row_weights = order // choices, _of_rows(weights, order)
    which = order if a_in is None and a_out is None else _places(index, order, count)
    found: dict[str, Tensor] = {}
    thin_given = None
    if a_out is not None and b_out is not None:
        by_expert = _by_expert(b_out, count)
        thin_given = _picked(given @ by_expert, which, count) * s_out
        spread = _spread(thin_out * (row_weights * s_out), which, given.shape[0], b_out, count).to(given.dtype)
        found["b_out"] = _as_stored(given.t() @ spread, count)
    of_inner, of_weights, active, thin_inner = adapted_swiglu_backward(
        inner, None if a_in is None else thin_in, _b_in(b_in, count), _a_out(a_out, count), ends,
        product(given, down.mT, ends, token), thin_given, row_weights[:, 0], again=trained or a_out is not None,
    )  # fmt: skip
    found["hidden"] = gather_sum(product(of_inner, gate_up.mT, ends), places, None, choices)
    found["weights"] = of_weights[places].view_as(weights).to(weights.dtype)
    if thin_inner is not None and a_in is not None and b_in is not None:
        spread = _spread(thin_inner * s_in, which, given.shape[0], b_in, count).to(given.dtype)
        found["hidden"] = torch.addmm(found["hidden"], spread, a_in)
        found["a_in"] = spread.t() @ hidden
        of_b = F.grouped_mm(of_inner.t(), thin_in, offs=ends)
        found["b_in"] = of_b[:, :, : b_in.shape[1] // count].permute(1, 2, 0).reshape(b_in.shape)
    if thin_given is not None and a_out is not None and active is not None:
        scaled = (thin_given * row_weights).to(given.dtype)
        of_a = F.grouped_mm(scaled.t(), active, offs=ends)
        found["a_out"] = of_a[:, : a_out.shape[0] // count].reshape(a_out.shape)
    if trained and active is not None:
        found["gate_up"] = F.grouped_mm(of_inner.t(), hidden[token], offs=ends)
        weighted = active * row_weights.to(active.dtype)
        found["down"] = F.grouped_mm(given[token].t(), weighted, offs=ends)
    return [found.get(name, given.new_empty(0)).contiguous() for name in GRADIENTS]


GRADIENTS = ("hidden", "weights", "a_in", "b_in", "a_out", "b_out", "gate_up", "down")


@_backward.register_fake
def _(
    given: Tensor, hidden: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor,
    a_in: Maybe, b_in: Maybe, a_out: Maybe, b_out: Maybe, *rest: Any,
) -> list[Tensor]:  # fmt: skip
    trained = rest[-1]
    learnt = [hidden, weights, a_in, b_in, a_out, b_out, *((gate_up, down) if trained else (None, None))]
    return [given.new_empty(0) if one is None else torch.empty_like(one).contiguous() for one in learnt]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.s_in, ctx.s_out = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _differentiate(ctx: Any, given: Tensor, *_: Any) -> tuple[Maybe, ...]:
    saved = ctx.saved_tensors
    trained = any(ctx.needs_input_grad[3:5])
    grads = _backward(given.contiguous(), *saved[:9], ctx.s_in, ctx.s_out, *saved[9:], trained)
    hidden, weights, a_in, b_in, a_out, b_out, gate_up, down = (one if one.numel() else None for one in grads)
    return hidden, None, weights, gate_up, down, a_in, b_in, a_out, b_out, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


# --------------------------------------------------------------------------------------------------------------
# adapters between PEFT's layout, the rows and the tokens


def padded_rank(rank: int) -> int:
    """The next power of two, at least THINNEST: what the kernels multiply with."""
    return max(THINNEST, 1 << (rank - 1).bit_length())


def _places(index: Tensor, order: Tensor, experts: int) -> Tensor:
    """(S,) int64: where each row's token and expert are in (T, E), counted through."""
    return order // index.shape[1] * experts + index.reshape(-1)[order]


def _of_rows(weights: Tensor, order: Tensor) -> Tensor:
    """(S, 1): the weight of every row, fp32 or wider."""
    return weights.reshape(-1)[order].to(wide(weights))[:, None]


def _picked(all_experts: Tensor, which: Tensor, experts: int) -> Tensor:
    """(T, E r) -> (S, r): what belongs to each row, padded with zeros to what the kernels multiply with."""
    rank = all_experts.shape[1] // experts
    return F.pad(all_experts.view(-1, rank).index_select(0, which), (0, padded_rank(rank) - rank))


def _spread(thin: Tensor, which: Tensor, tokens: int, b: Tensor, experts: int) -> Tensor:
    """The opposite: (S, padded r) -> (T, E r), zero where a token has no row."""
    rank = b.shape[1] // experts
    return thin.new_zeros(tokens * experts, rank).index_copy_(0, which, thin[:, :rank]).view(tokens, -1)


def _by_expert(b: Tensor, experts: int) -> Tensor:
    """PEFT's B (out, r E), whose experts are innermost -> (out, E r)."""
    return b.view(b.shape[0], -1, experts).transpose(1, 2).reshape(b.shape)


def _as_stored(b: Tensor, experts: int) -> Tensor:
    """(out, E r) -> PEFT's (out, r E)."""
    return b.view(b.shape[0], experts, -1).transpose(1, 2).reshape(b.shape)


def _b_in(b: Maybe, experts: int) -> Maybe:
    """(2 I, r E) -> (E, 2 I, padded r)."""
    if b is None:
        return None
    by_expert = b.view(b.shape[0], -1, experts).permute(2, 0, 1)
    return F.pad(by_expert, (0, padded_rank(by_expert.shape[2]) - by_expert.shape[2])).contiguous()


def _a_out(a: Maybe, experts: int) -> Maybe:
    """(E r, I) -> (E, padded r, I)."""
    if a is None:
        return None
    by_expert = a.view(experts, -1, a.shape[1])
    return F.pad(by_expert, (0, 0, 0, padded_rank(by_expert.shape[1]) - by_expert.shape[1])).contiguous()
