"""Triton kernels behind trainer/fast/expert_kernels.py, where what they compute is written in plain torch.

Arguments without a value (an adapter that is not there) have rank 0 and are not touched.
"""

import triton
import triton.language as tl


@triton.jit
def gather_sum(
    rows, places, weights, out, width, choices: tl.constexpr, weighted: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """Program (t, c): columns c * block and on of token t."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    total = tl.zeros([block], tl.float32)
    for choice in tl.static_range(choices):
        place = tl.load(places + token * choices + choice).to(tl.int64)
        row = tl.load(rows + place * width + columns, inside, 0.0).to(tl.float32)
        if weighted:
            row *= tl.load(weights + token * choices + choice).to(tl.float32)
        total += row
    tl.store(out + token * width + columns, total.to(out.dtype.element_ty), inside)


@triton.jit
def _block_of_rows(ends, experts, padded: tl.constexpr, block: tl.constexpr):
    """(expert, its first row of this program's block, its end); expert >= experts: nothing is left to do."""
    program = tl.program_id(0)
    each = tl.arange(0, padded)
    end = tl.load(ends + each, each < experts, 0)
    begin = tl.load(ends + each - 1, (each > 0) & (each < experts), 0)
    blocks = tl.maximum(end - begin + block - 1, 0) // block
    upto = tl.cumsum(blocks, 0)
    expert = tl.sum((upto <= program).to(tl.int32), 0)
    chosen = each == expert
    first = tl.sum(tl.where(chosen, begin + (program - upto + blocks) * block, 0), 0)
    return expert, first, tl.sum(tl.where(chosen, end, 0), 0)


@triton.jit
def adapted_swiglu(
    inner, thin_in, b_in, a_out, ends, active, thin_out, width, experts, padded: tl.constexpr,
    rank_in: tl.constexpr, rank_out: tl.constexpr, block: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    """A program: all columns of `block` rows of one expert."""
    expert, first, end = _block_of_rows(ends, experts, padded, block)
    if expert >= experts:
        return
    # Where the block begins is 64 bits wide; inside it 32 bits do, and registers are few.
    row, begin, which = tl.arange(0, block)[:, None], first.to(tl.int64), expert.to(tl.int64)
    there = row < end - first
    inner += begin * 2 * width
    active += begin * width
    if rank_in > 0:
        ranks_in = tl.arange(0, rank_in)
        thin = tl.load(thin_in + begin * rank_in + row * rank_in + ranks_in[None, :], there, 0.0)
        b_in += which * 2 * width * rank_in
    if rank_out > 0:
        ranks_out = tl.arange(0, rank_out)
        a_out += which * rank_out * width
        total = tl.zeros([block, rank_out], tl.float32)
    for start in range(0, width, step):
        column = start + tl.arange(0, step)
        within = column < width
        mask = there & within[None, :]
        at = row * 2 * width + column[None, :]
        gate = tl.load(inner + at, mask, 0.0).to(tl.float32)
        up = tl.load(inner + width + at, mask, 0.0).to(tl.float32)
        if rank_in > 0:
            at_b = column[None, :] * rank_in + ranks_in[:, None]
            gate = tl.dot(thin, tl.load(b_in + at_b, within[None, :], 0.0), gate, input_precision="ieee")
            up = tl.dot(thin, tl.load(b_in + width * rank_in + at_b, within[None, :], 0.0), up, input_precision="ieee")
        value = (gate * tl.sigmoid(gate) * up).to(active.dtype.element_ty)
        tl.store(active + row * width + column[None, :], value, mask)
        if rank_out > 0:
            a_part = tl.load(a_out + ranks_out[None, :] * width + column[:, None], within[:, None], 0.0)
            total = tl.dot(value, a_part, total, input_precision="ieee")
    if rank_out > 0:
        at = row * rank_out + ranks_out[None, :]
        tl.store(thin_out + begin * rank_out + at, total.to(thin_out.dtype.element_ty), there)


@triton.jit
def adapted_swiglu_backward(
    inner, thin_in, b_in, a_out, ends, grad, thin_grad, weights, of_inner, of_weights, active, thin_inner,
    width, experts, padded: tl.constexpr, rank_in: tl.constexpr, rank_out: tl.constexpr, block: tl.constexpr,
    step: tl.constexpr, again: tl.constexpr,
):  # fmt: skip
    """A program: all columns of `block` rows of one expert."""
    expert, first, end = _block_of_rows(ends, experts, padded, block)
    if expert >= experts:
        return
    line, begin, which = tl.arange(0, block), first.to(tl.int64), expert.to(tl.int64)
    row, there = line[:, None], line[:, None] < end - first
    inner += begin * 2 * width
    of_inner += begin * 2 * width
    grad += begin * width
    active += begin * width
    weight = tl.load(weights + begin + line, line < end - first, 0.0).to(tl.float32)[:, None]
    of_weight = tl.zeros([block], tl.float32)
    if rank_in > 0:
        ranks_in = tl.arange(0, rank_in)
        thin = tl.load(thin_in + begin * rank_in + row * rank_in + ranks_in[None, :], there, 0.0)
        b_in += which * 2 * width * rank_in
        total = tl.zeros([block, rank_in], tl.float32)
    if rank_out > 0:
        ranks_out = tl.arange(0, rank_out)
        thin_given = tl.load(thin_grad + begin * rank_out + row * rank_out + ranks_out[None, :], there, 0.0)
        a_out += which * rank_out * width
    for start in range(0, width, step):
        column = start + tl.arange(0, step)
        within = column < width
        mask = there & within[None, :]
        at, at_inner = row * width + column[None, :], row * 2 * width + column[None, :]
        gate = tl.load(inner + at_inner, mask, 0.0).to(tl.float32)
        up = tl.load(inner + width + at_inner, mask, 0.0).to(tl.float32)
        given = tl.load(grad + at, mask, 0.0).to(tl.float32)
        if rank_in > 0:
            at_b = column[None, :] * rank_in + ranks_in[:, None]
            b_gate = tl.load(b_in + at_b, within[None, :], 0.0)
            b_up = tl.load(b_in + width * rank_in + at_b, within[None, :], 0.0)
            gate = tl.dot(thin, b_gate, gate, input_precision="ieee")
            up = tl.dot(thin, b_up, up, input_precision="ieee")
        if rank_out > 0:
            a_part = tl.load(a_out + ranks_out[:, None] * width + column[None, :], within[None, :], 0.0)
            given = tl.dot(thin_given, a_part, given, input_precision="ieee")
        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        of_weight += tl.sum(given * silu * up, 1)
        if again:
            tl.store(active + at, (silu * up).to(active.dtype.element_ty), mask)
        given *= weight
        of_up = (given * silu).to(of_inner.dtype.element_ty)
        of_gate = (given * up * (sigmoid + silu * (1 - sigmoid))).to(of_inner.dtype.element_ty)
        tl.store(of_inner + at_inner, of_gate, mask)
        tl.store(of_inner + width + at_inner, of_up, mask)
        if rank_in > 0:
            total = tl.dot(of_gate, tl.trans(b_gate), total, input_precision="ieee")
            total = tl.dot(of_up, tl.trans(b_up), total, input_precision="ieee")
    tl.store(of_weights + begin + line, of_weight, line < end - first)
    if rank_in > 0:
        at = row * rank_in + ranks_in[None, :]
        tl.store(thin_inner + begin * rank_in + at, total.to(thin_inner.dtype.element_ty), there)
