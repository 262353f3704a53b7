"""Frozen experts beside their references: a loop over experts, and PEFT's own way on transformers' own forward."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.training.tiny import MIXTURES, tiny_dense, train_config
from trainer.fast import expert_triton
from trainer.fast.expert_kernels import ADAPTED, PLAIN
from trainer.fast.expert_layer import experts
from trainer.fast.experts import adapt_our_experts, says, use_our_experts
from trainer.lora import add_adapters
from trainer.model import load_model

CPU = torch.device("cpu")
TOKENS, WIDTH, INNER, EXPERTS, CHOICES = 37, 24, 16, 6, 2


SCALES = (0.5, 2.0)


def _looped(
    hidden: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, factors: Any, scales: Any
) -> Tensor:
    """The same, expert after expert, with whole adapted weights."""
    out = torch.zeros_like(hidden)
    for expert in range(gate_up.shape[0]):
        whole = []
        for weight, a, b, scale in zip((gate_up, down), factors[::2], factors[1::2], scales, strict=True):
            change = 0 if a is None else scale * b[:, expert::EXPERTS] @ a.view(EXPERTS, -1, a.shape[1])[expert]
            whole.append(weight[expert] + change)
        token, choice = torch.where(index == expert)
        gate, up = (hidden[token] @ whole[0].t()).chunk(2, -1)
        part = (F.silu(gate) * up) @ whole[1].t() * weights[token, choice][:, None]
        out = out.index_add(0, token, part)
    return out


def _case(rank: int, dtype: torch.dtype, adapted: tuple[bool, bool], seed: int = 0) -> tuple[list[Any], list[Tensor]]:
    """The arguments of experts(), and those of them that have gradients. Expert 0 has no token."""
    torch.manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    index = torch.stack([torch.randperm(EXPERTS - 1)[:CHOICES] + 1 for _ in range(TOKENS)])
    weights = torch.rand(TOKENS, CHOICES, dtype=dtype, requires_grad=True)
    gate_up, down = torch.randn(EXPERTS, 2 * INNER, WIDTH, dtype=dtype), torch.randn(EXPERTS, WIDTH, INNER, dtype=dtype)
    sizes = [(EXPERTS * rank, WIDTH), (2 * INNER, rank * EXPERTS), (EXPERTS * rank, INNER), (WIDTH, rank * EXPERTS)]
    there = [adapted[0], adapted[0], adapted[1], adapted[1]]
    drawn = [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]
    factors = tuple(one if asked else None for one, asked in zip(drawn, there, strict=True))
    learnt = [hidden, weights, *(one for one in factors if one is not None)]
    return [hidden, index, weights, gate_up, down, factors, SCALES], learnt


def _same(ours: Tensor, theirs: Tensor, learnt: list[Tensor]) -> None:
    """Output and every gradient to 1e-5."""
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    given = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, learnt, given), torch.autograd.grad(theirs, learnt, given), strict=True
    ):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("rank", [3, 16])
@pytest.mark.parametrize("adapted", list(itertools.product([True, False], repeat=2)))
def test_as_a_loop_over_experts(rank: int, adapted: tuple[bool, bool]) -> None:
    arguments, learnt = _case(rank, torch.float32, adapted)
    _same(experts(*arguments), _looped(*arguments), learnt)


def test_the_triton_kernels_as_the_loop() -> None:
    """The test above in Triton's own interpreter, which has to be chosen before anything imports it."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", "as_a_loop", __file__]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("rank", [0, 16, 32])
def test_the_triton_kernels_become_code_for_an_h100(rank: int, tmp_path: Path) -> None:
    """Compiling needs no GPU. A kernel whose values do not fit into registers would keep them in memory."""
    rows, columns, warps = ADAPTED if rank else PLAIN
    sizes = {"padded": 128, "rank_in": rank, "rank_out": rank, "block": rows, "step": columns}
    forward = ["inner", "thin_in", "b_in", "a_out", "ends", "active", "thin_out"]
    backward = [*forward[:5], "grad", "thin_grad", "weights", "of_inner", "of_weights", "active", "thin_inner"]
    special = {"ends": "*i32", "weights": "*fp32", "of_weights": "*fp32"}
    for kernel, names in ((expert_triton.adapted_swiglu, forward), (expert_triton.adapted_swiglu_backward, backward)):
        pointers = {name: special.get(name, "*bf16") for name in names}
        known = {**sizes, "again": rank > 0} if names is backward else sizes
        signature = {**pointers, "width": "i32", "experts": "i32", **dict.fromkeys(known, "constexpr")}
        source = ASTSource(kernel, signature, constexprs=known)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
        (tmp_path / "kernel.ptx").write_text(made.asm["ptx"])
        assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
        command = [assembler, "-v", "--gpu-name=sm_90a", tmp_path / "kernel.ptx", "-o", tmp_path / "kernel"]
        assert "0 bytes spill stores" in subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_trained_weights() -> None:
    arguments, learnt = _case(3, torch.float32, (False, False))
    weights = [arguments[3].requires_grad_(), arguments[4].requires_grad_()]
    _same(experts(*arguments), _looped(*arguments), [*learnt, *weights])


def _wide(one: Any) -> Any:
    """The same in fp64, with gradients of its own."""
    if isinstance(one, tuple):
        return tuple(map(_wide, one))
    if isinstance(one, Tensor) and one.is_floating_point():
        return one.detach().double().requires_grad_(one.requires_grad)
    return one


def _output_and_gradients(function: Any, arguments: list[Any], given: Tensor) -> list[Tensor]:
    hidden, _, weights, _, _, factors, _ = arguments
    out = function(*arguments)
    return [out, *torch.autograd.grad(out, [hidden, weights, *factors], given.to(out.dtype))]


def test_bf16_is_as_near_to_fp64_as_the_loop() -> None:
    """At most 1.25 times its error in output and every gradient, over several draws: one alone is chance."""
    errors = torch.zeros(2, 7, dtype=torch.float64)
    for seed in range(12):
        arguments, _ = _case(8, torch.bfloat16, (True, True), seed)
        given = torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16)
        exact = _output_and_gradients(_looped, [_wide(one) for one in arguments], given)
        for row, function in enumerate((experts, _looped)):
            for column, one in enumerate(_output_and_gradients(function, arguments, given)):
                errors[row, column] += ((one.double() - exact[column]).norm() / exact[column].norm()) ** 2
    ratios = (errors[0] / errors[1]).sqrt()
    assert ratios.max() <= 1.25, ratios


@pytest.mark.parametrize("family", MIXTURES)
def test_as_peft_and_transformers(family: str, tmp_path: Path) -> None:
    train = train_config(lora={"rank": 4, "targets": ["all-linear"]})
    model = add_adapters(load_model(train, tiny_dense(tmp_path, family=family, vocabulary=300), CPU), train)
    learnt = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for _, parameter in learnt:
            parameter.normal_(std=0.2)
    ids = torch.randint(0, 300, (1, 50))

    def all_of(implementation: str) -> list[Tensor]:
        model.get_base_model().set_experts_implementation(implementation)
        out = model(input_ids=ids).logits
        return [out, *torch.autograd.grad(out.square().sum(), [parameter for _, parameter in learnt])]

    theirs = all_of("eager")
    use_our_experts(model.get_base_model())
    assert says(model) == "experts by torch"
    adapt_our_experts(model)
    for name, ours, plain in zip(["logits", *(name for name, _ in learnt)], all_of("kctl"), theirs, strict=True):
        assert (ours - plain).norm() <= 1e-5 * plain.norm(), name
