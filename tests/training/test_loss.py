"""The loss of the label positions alone equals the naive one, in value and gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.training.test_attention import SMALL
from tests.training.tiny import awaken, tiny_dense, tiny_mixture, train_config
from trainer.fast import loss
from trainer.fast.attention import packed_inputs
from trainer.fast.loss import forward_hidden, label_loss, output_head
from trainer.model import add_adapters, load_model

CPU = torch.device("cpu")


def problem(tokens: int, labels: int, seed: int = 0) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    hidden = torch.randn(tokens, 16, generator=generator).requires_grad_()
    positions = torch.randperm(tokens, generator=generator)[:labels].sort().values
    return hidden, nn.Linear(16, 50), torch.randint(0, 50, (labels,), generator=generator), positions


@given(st.integers(1, 70), st.data())
@settings(max_examples=30, deadline=None)
def test_equals_cross_entropy_of_full_logits(tokens: int, data: st.DataObject) -> None:
    labels = data.draw(st.integers(0, tokens))
    hidden, head, targets, positions = problem(tokens, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK", 7)
        total, each = label_loss(hidden, head, targets, positions)
        ours = torch.autograd.grad(total, [hidden, *head.parameters()], allow_unused=True)
    naive = F.cross_entropy(head(hidden)[positions], targets, reduction="none")
    theirs = torch.autograd.grad(naive.sum(), [hidden, *head.parameters()])
    torch.testing.assert_close(each, naive.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(total, naive.sum(), rtol=1e-6, atol=1e-6)
    assert total.dtype == each.dtype == torch.float32 and not each.requires_grad
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.zeros_like(other) if mine is None else mine, other, rtol=1e-6, atol=1e-6)


def test_a_weight_serves_as_head() -> None:
    hidden, head, targets, positions = problem(20, 9)
    total, _ = label_loss(hidden, head.weight, targets, positions)
    naive = F.cross_entropy(F.linear(hidden, head.weight)[positions], targets, reduction="sum")
    torch.testing.assert_close(total, naive)


def test_no_labels_give_a_zero_that_carries_a_gradient() -> None:
    hidden, head, _, _ = problem(5, 0)
    empty = torch.empty(0, dtype=torch.long)
    total, each = label_loss(hidden, head, empty, empty)
    assert (total.item(), each.shape) == (0.0, (0,))
    assert torch.autograd.grad(total, hidden)[0].abs().sum() == 0


@pytest.mark.parametrize("labels", [0, 6])
def test_calls_of_the_head_beyond_the_labels_change_nothing(labels: int) -> None:
    hidden, head, targets, positions = problem(20, labels)
    runs: list[int] = []

    def counted(part: Tensor) -> Tensor:
        runs.append(len(part))
        return head(part)

    total, each = label_loss(hidden, counted, targets, positions, calls=3)
    assert len(runs) == 3
    expected, alone = label_loss(hidden, head, targets, positions)
    assert torch.equal(total, expected) and torch.equal(each, alone)
    gradient, reference = (torch.autograd.grad(loss, hidden)[0] for loss in (total, expected))
    assert torch.equal(gradient, reference)


def test_logits_exist_for_one_chunk_at_a_time() -> None:
    hidden, head, targets, positions = problem(1000, 900)
    seen: list[int] = []

    def watched(part: Tensor) -> Tensor:
        seen.append(len(part))
        return head(part)

    total, _ = label_loss(hidden, watched, targets, positions)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        label_loss(hidden, watched, targets, positions)
    total.backward()
    assert max(seen) == loss.CHUNK
    assert max(kept, default=0) < loss.CHUNK * 50, "logits were kept for the backward pass"


def test_bf16_sums_in_fp32() -> None:
    hidden, head, targets, positions = problem(3000, 3000)
    half = head.bfloat16()
    total, each = label_loss(hidden.detach().bfloat16(), half, targets, positions)
    assert total.dtype == each.dtype == torch.float32
    torch.testing.assert_close(total.double(), each.double().sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [tiny_dense, tiny_mixture])
def test_hidden_states_pass_the_adapters_and_not_the_head(make: Any, tmp_path: Path) -> None:
    train = train_config()
    model = add_adapters(load_model(train, make(tmp_path, vocabulary=300), CPU), train)
    ids = torch.randint(0, 300, (1, 9))
    with torch.no_grad():
        plain = forward_hidden(model, ids, {})
        awaken(model)
        expected = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        hook = model.get_base_model().lm_head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
        hidden = forward_hidden(model, ids, packed_inputs([9], CPU))
        hook.remove()
    torch.testing.assert_close(hidden, expected)
    assert (hidden - plain).norm() > 0.1 * plain.norm()


@pytest.mark.parametrize(
    "config",
    [
        transformers.Gemma2Config(**SMALL, head_dim=16, final_logit_softcapping=2.0),
        transformers.GraniteConfig(**SMALL, logits_scaling=3.0, embedding_multiplier=2.0),
        transformers.CohereConfig(**SMALL, logit_scale=0.3),
    ],
    ids=lambda config: config.model_type,
)
def test_scaled_and_capped_logits_are_the_models_own(config: transformers.PreTrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = torch.randint(0, 200, (1, 8))
    with torch.no_grad():
        ours = output_head(model)(forward_hidden(model, ids, {}))
        torch.testing.assert_close(ours, model(input_ids=ids).logits[0])
        plain = model.get_output_embeddings()(forward_hidden(model, ids, {}))
    assert (ours - plain).abs().max() > 0.01
