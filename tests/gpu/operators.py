"""Our operators on a real GPU, by hand: `python -m tests.gpu.operators`. Triton beside plain torch, attention beside
plain attention, and a layer of Qwen3-30B-A3B's experts beside transformers' grouped products and PEFT's expert LoRA:
errors against fp32, time, memory. Exit 1 where an error is too large.
"""

import functools
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from trainer.bench.work import Row, item_lengths
from trainer.fast import attention, expert_products
from trainer.fast.attention import FLASH, ITEM_BY_ITEM, VARLEN, flash_fits
from trainer.fast.expert_kernels import adapted_swiglu, adapted_swiglu_backward, gather_sum
from trainer.fast.expert_layer import experts

TOKENS, CHOICES, EXPERTS, RANK, ROUNDS = 8192, 8, 128, 8, 7
HIDDEN, INNER = 2048, 768
CUDA = torch.device("cuda")
failed = False


def check(what: str, error: float, limit: float) -> None:
    """Print; remember a failure."""
    global failed
    failed |= not error <= limit
    print(f"{'ok  ' if error <= limit else 'FAIL'} {what}: {error:.2e} (limit {limit:.0e})", flush=True)


def status() -> int:
    """The exit code."""
    return int(failed)


def relative(one: Tensor, other: Tensor) -> float:
    return float((one.double().cpu() - other.double().cpu()).norm() / other.double().norm().cpu())


def milliseconds(act: Callable[[], object]) -> float:
    """Median of ROUNDS after two to warm up."""
    took = []
    for _ in range(ROUNDS + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        act()
        end.record()
        torch.cuda.synchronize()
        took.append(begin.elapsed_time(end))
    return statistics.median(took[2:])


def triton(dtype: torch.dtype, limit: float) -> None:
    """Odd sizes; the reference is the same function on the CPU, there in fp32."""
    torch.manual_seed(0)
    rows, places = torch.randn(53 * 3, 1500, dtype=dtype), torch.randperm(53 * 3).int()
    weights = torch.rand(53, 3, dtype=dtype)
    for arguments in ((rows, places, weights, 3), (rows, places, None, 3)):
        check(f"gather_sum {dtype}", relative(gather_sum(*moved(arguments)), gather_sum(*arguments)), limit)
    ends, width, rank = torch.tensor([0, 71, 71, 100, 159], dtype=torch.int32), 200, 16
    inner, grad, thin = (torch.randn(159, size, dtype=dtype) for size in (2 * width, width, rank))
    b, a = torch.randn(5, 2 * width, rank, dtype=dtype) * 0.1, torch.randn(5, rank, width, dtype=dtype) * 0.1
    for adapted in (True, False):
        forward = (inner, *((thin, b, a) if adapted else (None, None, None)), ends)
        backward = (*forward, grad, thin if adapted else None, weights.reshape(-1), True)
        for name, function, arguments in (
            ("adapted_swiglu", adapted_swiglu, forward),
            ("adapted_swiglu_backward", adapted_swiglu_backward, backward),
        ):
            for one, other in zip(function(*moved(arguments)), function(*arguments), strict=True):
                if other is not None:
                    check(f"{name} {dtype}, adapters {adapted}", relative(one, other), limit)


def moved(arguments: tuple[Any, ...]) -> list[Any]:
    return [one.cuda() if isinstance(one, Tensor) else one for one in arguments]


def attend() -> None:
    """The benchmark's row of 64 items: every kernel's error against fp32 item by item, and its time."""
    lengths = item_lengths(Row("any"))
    bounds = torch.tensor([0, *lengths], device=CUDA).cumsum(0).int()
    tokens, arguments = sum(lengths), {"cu_seq_lens_q": bounds, "max_length_q": max(lengths), "scaling": 128**-0.5}
    torch.manual_seed(0)
    q, k, v, given = (torch.randn(1, heads, tokens, 128, device=CUDA).bfloat16() for heads in (32, 4, 4, 32))

    def stepped(kernel: str, dtype: torch.dtype) -> list[Tensor]:
        free = [one.detach().to(dtype).requires_grad_() for one in (q, k, v)]
        out, _ = attention._attention(nn.Identity(), *free, None, kernel, **arguments)
        return [out, *torch.autograd.grad(out, free, given.transpose(1, 2).to(dtype))]

    exact, plain = stepped(ITEM_BY_ITEM, torch.float32), stepped(ITEM_BY_ITEM, torch.bfloat16)
    names = ("out", "q", "k", "v")
    for kernel in ([FLASH] if flash_fits(CUDA) else []) + [VARLEN]:
        ours = stepped(kernel, torch.bfloat16)
        for name, one, other, value in zip(names, ours, plain, exact, strict=True):
            check(f"{kernel} {name}: error over plain bf16's", relative(one, value) / relative(other, value), 1.25)
        took = milliseconds(functools.partial(stepped, kernel, torch.bfloat16))
        print(f"{kernel}: {took:.2f} ms forward and backward", flush=True)


class Layer(nn.Module):
    """What PEFT wants: a model with experts in it."""

    def __init__(self) -> None:
        super().__init__()
        config = Qwen3MoeConfig(
            hidden_size=HIDDEN, num_experts=EXPERTS, num_experts_per_tok=CHOICES, moe_intermediate_size=INNER
        )
        config._experts_implementation = "grouped_mm"
        self.experts = Qwen3MoeExperts(config)

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = self.experts(hidden, index, weights)
        return out


def looped(hidden: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, factors: Any) -> Tensor:
    """Expert after expert with whole adapted weights: what the error is measured against, and plain bf16's own."""
    out = torch.zeros_like(hidden)
    for expert in range(EXPERTS):
        pair = []
        for weight, a, b in ((gate_up, *factors[:2]), (down, *factors[2:])):
            change = 0 if a is None else 2.0 * b[:, expert::EXPERTS] @ a.view(EXPERTS, -1, a.shape[1])[expert]
            pair.append(weight[expert] + change)
        token, choice = torch.where(index == expert)
        gate, up = (hidden[token] @ pair[0].t()).chunk(2, -1)
        out = out.index_add(0, token, (F.silu(gate) * up) @ pair[1].t() * weights[token, choice][:, None])
    return out


def layer(skewed: bool) -> None:
    """Forward and backward of one layer: output and gradients against fp32, times, peak memory."""
    torch.manual_seed(1)
    with CUDA:
        plain = Layer().bfloat16().requires_grad_(False)
        for parameter in plain.parameters():
            parameter.normal_(std=0.02)
        odds = 1 / torch.arange(1, EXPERTS + 1.0) if skewed else torch.ones(EXPERTS)
        index = torch.multinomial(odds.expand(TOKENS, EXPERTS), CHOICES)
        weights = torch.softmax(torch.randn(TOKENS, CHOICES), -1).bfloat16().requires_grad_()
        hidden = torch.randn(TOKENS, HIDDEN).bfloat16().requires_grad_()
        given = torch.randn(TOKENS, HIDDEN).bfloat16()
        sizes = (
            (EXPERTS * RANK, HIDDEN),
            (2 * INNER, EXPERTS * RANK),
            (EXPERTS * RANK, INNER),
            (HIDDEN, EXPERTS * RANK),
        )
        thin = [(torch.randn(size) * 0.05).bfloat16().requires_grad_() for size in sizes]
    both: Any = plain.experts
    free, names = [hidden, weights], ("output", "of hidden", "of weights", "a_in", "b_in", "a_out", "b_out")

    def ours(adapted: bool) -> list[Tensor]:
        factors: Any = tuple(thin) if adapted else (None,) * 4
        out = experts(hidden, index, weights, both.gate_up_proj, both.down_proj, factors, (2.0, 2.0))
        return [out, *torch.autograd.grad(out, [*free, *(thin if adapted else [])], given)]

    def reference(adapted: bool, dtype: torch.dtype) -> list[Tensor]:
        learnt = [one.detach().to(dtype).requires_grad_() for one in (*free, *(thin if adapted else []))]
        factors = learnt[2:] if adapted else (None,) * 4
        frozen = (both.gate_up_proj.to(dtype), both.down_proj.to(dtype))
        out = looped(learnt[0], index, learnt[1], *frozen, factors)
        return [out, *torch.autograd.grad(out, learnt, given.to(dtype))]

    label = "skewed" if skewed else "even"
    for adapted in (False, True):
        exact, bf16 = reference(adapted, torch.float32), reference(adapted, torch.bfloat16)
        for name, one, other, value in zip(names, ours(adapted), bf16, exact, strict=False):
            ratio = relative(one, value) / relative(other, value)
            check(f"{label}, adapters {adapted}, {name}: error over plain bf16's", ratio, 1.25)
    del exact, bf16
    torch.cuda.empty_cache()
    for name, act in {
        "transformers grouped_mm": lambda: torch.autograd.grad(plain(hidden, index, weights), free, given),
        "ours": lambda: ours(False),
        "ours with adapters": lambda: ours(True),
    }.items():
        torch.cuda.reset_peak_memory_stats()
        took = milliseconds(act)
        print(f"{label}: {name}: {took:.2f} ms, peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", flush=True)
    if not skewed:
        adapter = LoraConfig(r=RANK, target_parameters=["experts.gate_up_proj", "experts.down_proj"])
        adapted_model = get_peft_model(plain, adapter)
        learnt = [parameter for parameter in adapted_model.parameters() if parameter.requires_grad]
        took = milliseconds(
            lambda: torch.autograd.grad(
                adapted_model(hidden, index, weights), [*free, *learnt], given.float(), allow_unused=True
            )
        )
        print(f"{label}: PEFT's adapters: {took:.2f} ms", flush=True)


if __name__ == "__main__":
    print(
        f"torch {torch.__version__} on {torch.cuda.get_device_name()}; {TOKENS} tokens, {CHOICES} of {EXPERTS} experts"
    )
    triton(torch.float32, 1e-5)
    triton(torch.bfloat16, 6e-3)
    attend()
    for quack in (True, False) if expert_products.usable(CUDA) else (False,):
        if not quack:
            expert_products.usable = lambda _: False  # type: ignore[assignment]
        print(f"== grouped products: {'quack' if quack else 'torch'}", flush=True)
        for skewed in (False, True):
            layer(skewed)
    sys.exit(status())
