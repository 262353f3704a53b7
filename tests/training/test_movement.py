"""Adapters that do not move are told from those that had no chance to."""

from pathlib import Path

import pytest
import torch

from tests.training.test_batches import ListItems
from tests.training.tiny import SMALL_VOCABULARY, tiny_dense, tiny_mixture, train_config
from trainer.batches import build_batch
from trainer.lora import add_adapters
from trainer.model import load_model
from trainer.movement import fingerprints, parts, sentences, tokens_by_expert, unmoved
from trainer.schema.packing import Packing

CPU = torch.device("cpu")
FEW = [5, 6, 7, 8]
"""Tokens for at most 3 x 2 of 8 experts."""


@pytest.fixture(scope="module", params=["dense", "mixture"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    make = tiny_dense if request.param == "dense" else tiny_mixture
    folder = make(tmp_path_factory.mktemp(request.param) / "tiny", vocabulary=SMALL_VOCABULARY)
    train = train_config(lora={"rank": 8, "expert_rank": 4})
    return add_adapters(load_model(train, folder, CPU), train)


def trained(model: torch.nn.Module, tokens: list[int], frozen: str = "nothing") -> list[str]:
    """What is said after two steps of plain AdamW on these tokens alone, with the tensors called `frozen` left out."""
    batch = build_batch(ListItems([tokens], [[0] + [1] * (len(tokens) - 1)]), [0], Packing(1, 64), CPU)
    before = fingerprints(model)
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad and frozen not in name]
    optimizer = torch.optim.AdamW([value for _, value in named], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=batch.input_ids, labels=batch.input_ids).loss.backward()
        optimizer.step()
    still = unmoved(before, fingerprints(model))
    return sentences(still, tokens_by_expert(model, [batch]))


def test_what_moves_is_not_mentioned_and_what_is_left_out_is(model: torch.nn.Module) -> None:
    many = torch.randint(0, SMALL_VOCABULARY, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    assert trained(model, many) == []
    (line,) = trained(model, many, "layers.1.self_attn.v_proj")
    assert line.startswith("base_model.model.model.layers.1.self_attn.v_proj.lora_A.default.weight; base_model.model.")
    assert line.endswith("have not moved in 20 updates: it is not trained; with ops.kernels: reference it may be")


def test_experts_without_tokens_are_told_from_experts_that_do_not_move(tmp_path: Path) -> None:
    folder = tiny_mixture(tmp_path / "tiny", vocabulary=SMALL_VOCABULARY)
    train = train_config(lora={"rank": 8, "expert_rank": 4})
    model = add_adapters(load_model(train, folder, CPU), train)
    (line,) = trained(model, FEW)
    routed = tokens_by_expert(model, [build_batch(ListItems([FEW], [[0, 1, 1, 1]]), [0], Packing(1, 64), CPU)])
    without = {layer: sorted(set(range(8)) - experts) for layer, experts in routed.items()}
    assert list(without) == [f"base_model.model.model.layers.{layer}.mlp.experts" for layer in (0, 1)]
    said = "; ".join(f"{layer}: {', '.join(map(str, experts))}" for layer, experts in without.items())
    count = sum(map(len, without.values()))
    assert 0 < count < 16
    assert line == f"{count} experts got no token to learn from in 20 updates, as it seems ({said})"
    stuck, *rest = trained(model, FEW, "layers.0.mlp.experts.lora_B")
    assert "layers.0.mlp.experts.lora_B.default.weight, expert " in stuck and not rest[1:]
    assert stuck.endswith("though the expert gets tokens: it is not trained; with ops.kernels: reference it may be")


def test_experts_are_one_part_each(tmp_path: Path) -> None:
    folder = tiny_mixture(tmp_path / "tiny", vocabulary=SMALL_VOCABULARY)
    train = train_config(lora={"rank": 8, "expert_rank": 4})
    model = add_adapters(load_model(train, folder, CPU), train)
    known = [(part, row) for own, values in parts(model) for part, row in zip(own, values, strict=True)]
    of_experts = [part for part, _ in known if part.layer]
    assert len(of_experts) == 2 * 2 * 8 and all(".lora_B." in part.name for part in of_experts)
    assert {part.expert for part in of_experts} == set(range(8))
