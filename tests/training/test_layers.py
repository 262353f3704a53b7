"""Compiled layers: whole graphs, the same numbers, and none compiled after the warm-up, whatever a row looks like."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.tiny import awaken, tiny_dense, train_config
from trainer.fast import attention
from trainer.fast.attention import packed_inputs, use_packed_attention
from trainer.fast.experts import use_our_experts
from trainer.fast.layers import compile_layers, graphs, recompute_first, uncompiled, warm_up
from trainer.fast.loss import forward_hidden
from trainer.lora import add_adapters
from trainer.model import load_model

CPU = torch.device("cpu")
ROWS = [[50, 30, 48], [128], [100, 28, 64, 64], [10, 20, 98, 128]]


def results(model: Any, lengths: list[int], grad: bool = True) -> list[Tensor]:
    """Hidden states of a row and, with `grad`, the gradients of what is trained."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.set_grad_enabled(grad):
        ids = torch.arange(sum(lengths))[None] % 300
        hidden = forward_hidden(model, ids, packed_inputs(lengths, CPU))
        return [hidden, *(torch.autograd.grad(hidden.square().sum(), learnt) if grad else ())]


@pytest.fixture()
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny model as on a GPU: our operators for attention and experts, here in their plain versions."""
    monkeypatch.setattr(attention, "_fits", lambda *_: True)
    monkeypatch.setattr(attention, "chosen", lambda: attention.FLASH)
    train = train_config(lora={"rank": 4, "dropout": 0.0, "targets": ["all-linear"]})
    model = load_model(train, tiny_dense(tmp_path, family=request.param, vocabulary=300), CPU)
    use_packed_attention(model, train.data.max_length)
    use_our_experts(model)
    adapted = add_adapters(model, train)
    awaken(adapted)
    yield adapted
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("made", "recompute"), [("qwen3_moe", True), ("qwen2_moe", False), ("qwen3", False)], indirect=["made"]
)
def test_compiled_layers_compute_the_same(made: Any, recompute: bool) -> None:
    made.train()
    plain = [results(made, lengths) for lengths in ROWS]
    said = compile_layers(made, CPU, contextlib.nullcontext, backend="aot_eager")
    assert said.startswith("layers compiled in "), said
    if recompute:
        recompute_first(made, 1)
        warm_up(made, CPU, contextlib.nullcontext)
    before = graphs()
    for lengths, expected in zip(ROWS, plain, strict=True):
        for ours, theirs in zip(results(made, lengths), expected, strict=True):
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    made.eval()
    for lengths, expected in zip(ROWS, plain, strict=True):
        assert (results(made, lengths, grad=False)[0] - expected[0]).norm() <= 1e-5 * expected[0].norm()
    made.set_attn_implementation("sdpa")
    with uncompiled(made):
        made.generate(input_ids=torch.arange(9)[None], max_new_tokens=3, do_sample=False)
    assert graphs() == before
