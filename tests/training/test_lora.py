"""Adapters exactly where they were asked for, at their rank and scale, from the same start in every process."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from transformers import FalconH1Config, GPT2Config, Phi3Config

from tests.training.test_attention import SMALL
from tests.training.tiny import DENSE, MIXTURES, awaken, config_of, tiny_dense, tiny_mixture, train_config
from trainer import adapters
from trainer.errors import CheckpointError, ConfigError
from trainer.model import (
    add_adapters,
    audit,
    family,
    load_model,
    meta_counts,
    parameter_groups,
    trained_parameters,
)
from trainer.schema.parameters import known_models, lora_parameters, shape_of, total_parameters

CPU = torch.device("cpu")
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dense(tmp_path_factory.mktemp("dense"), vocabulary=300)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mixture(tmp_path_factory.mktemp("mixture"), vocabulary=300)


def adapted(folder: Path, train: Any) -> Any:
    return add_adapters(load_model(train, folder, CPU), train)


# --------------------------------------------------------------------------------------------------------------
# targets, ranks, scales


@pytest.mark.parametrize("name", DENSE + MIXTURES)
def test_counts_are_those_of_the_schema(name: str, tmp_path: Path) -> None:
    train = train_config(lora={"rank": 24, "targets": ["all-linear"]})
    folder = tiny_dense(tmp_path, family=name, vocabulary=100)
    counts = audit(adapted(folder, train), train)
    assert counts == meta_counts(train, folder)
    if name != "olmoe":  # not in the schema's table
        shape = shape_of(config_of(name, 100).to_dict())
        assert counts.total == total_parameters(shape)
        assert counts.families == lora_parameters(shape, train.lora)
    assert counts.trained == sum(counts.families.values())
    assert counts.lines()[0].startswith(f"trained {counts.trained:,} beside {counts.total:,} (")
    assert any("experts at rank 16 a pair" in line for line in counts.lines()) == (name in MIXTURES)


def test_the_30b_mixture_is_counted_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(known_models()["Qwen3-30B-A3B"]))
    counts = meta_counts(train_config(lora={"rank": 64, "expert_rank": 64}), tmp_path)
    assert (counts.total, counts.families["attention"], counts.trained) == (30_532_122_624, 53_477_376, 2_570_059_776)


ONE_OF_EACH = [
    "Qwen3-0.6B",
    "Qwen2.5-0.5B",
    "Llama-3.2-1B",
    "Mistral-7B-v0.3",
    "gemma-2b",
    "gemma-2-2b",
    "gemma-3-1b-pt",
]


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "Qwen3-30B-A3B", "Qwen1.5-MoE-A2.7B", "Mixtral-8x7B-v0.1"])
def test_shipped_sizes_count_as_the_trainer_counts(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(known_models()[name]))
    train, shape = train_config(lora={"rank": 24, "targets": ["all-linear"]}), shape_of(known_models()[name])
    counts = meta_counts(train, tmp_path)
    assert (counts.total, counts.families) == (total_parameters(shape), lora_parameters(shape, train.lora))


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_scales_are_as_asked(mixture: Path, rslora: bool) -> None:
    train = train_config(lora={"rank": 4, "alpha": 12, "expert_rank": 8, "rslora": rslora})
    model = adapted(mixture, train)
    awaken(model)
    scale = 12 / (math.sqrt(4) if rslora else 4)
    mlp = model.get_base_model().model.layers[1].mlp
    query = model.get_base_model().model.layers[1].self_attn.q_proj
    a, b = query.lora_A["default"].weight, query.lora_B["default"].weight
    assert a.shape[0] == 4
    torch.testing.assert_close(query.get_delta_weight("default"), scale * b @ a)
    for wrapper, stored in ((mlp.experts, "down_proj"), (mlp.experts.base_layer, "gate_up_proj")):
        assert wrapper.parameter_name == stored
        a, b = wrapper.lora_A["default"].weight, wrapper.lora_B["default"].weight
        assert a.shape[0] == 8 * 8
        delta = wrapper.get_delta_weight("default")
        for expert in range(8):  # A is expert-major, B rank-major
            expected = scale * b[:, expert::8] @ a[expert * 8 : (expert + 1) * 8]
            torch.testing.assert_close(delta[expert], expected)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_router_is_never_trained(name: str, tmp_path: Path) -> None:
    train = train_config(lora={"targets": ["all-linear"]})
    model = adapted(tiny_dense(tmp_path, family=name, vocabulary=100), train)
    names = [parameter for parameter, _ in trained_parameters(model)]
    assert names and all(".lora_" in parameter for parameter in names)
    assert not [
        parameter for parameter in names if {"gate", "router", "shared_expert_gate"} & set(parameter.split("."))
    ]
    assert model.config.output_router_logits is False


@pytest.mark.parametrize(
    ("kind", "lora", "sentence"),
    [
        (
            "qwen3_moe",
            {"targets": ["q_proj", "gate_proj"]},
            "gate_proj and up_proj are one fused tensor in model.layers.0",
        ),
        ("phi3", {"targets": SEVEN}, "q_proj is no layer of phi3; it has down_proj, gate_up_proj, o_proj, qkv_proj"),
        ("gpt2", {"targets": ["all-linear"]}, "q_proj is no layer of gpt2; it has none"),
    ],
)
def test_targets_that_the_model_does_not_have(kind: str, lora: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    config = {
        "qwen3_moe": lambda: config_of("qwen3_moe", 100),
        "phi3": lambda: Phi3Config(**SMALL),
        "gpt2": lambda: GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1),
    }[kind]()
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        meta_counts(train_config(lora=lora), tmp_path)


def test_layers_without_a_target_are_left_alone(tmp_path: Path) -> None:
    mixer = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
    FalconH1Config(**SMALL, **mixer).save_pretrained(tmp_path)
    counts = meta_counts(train_config(lora={"targets": ["q_proj", "v_proj"]}), tmp_path)
    assert set(counts.families) == {"attention"}


def test_expert_rank_without_experts_is_ignored_with_a_line(dense: Path, mixture: Path) -> None:
    for folder, targets in ((dense, SEVEN), (mixture, SEVEN[:4])):
        train = train_config(lora={"expert_rank": 16, "targets": targets})
        assert audit(adapted(folder, train), train).lines()[1:] == [
            "expert_rank 16 is ignored: no target is a mixture's expert"
        ]


def test_the_audit_refuses_what_was_asked_for_and_not_got(mixture: Path) -> None:
    train = train_config()
    model = adapted(mixture, train)
    layers = model.get_base_model().model.layers
    layers[1].mlp.experts.lora_B["default"].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"model.layers.1.mlp.experts.down_proj needs .* trained parameters, got"):
        audit(model, train)
    layers[1].mlp.experts = layers[1].mlp.experts.get_base_layer()
    with pytest.raises(ConfigError, match=r"layers.1.mlp.experts.\w+ needs [\d,]+ trained parameters, got 0"):
        audit(model, train)
    narrower = train_config(lora={"targets": SEVEN[:3]})
    with pytest.raises(ConfigError, match="has an adapter that nobody asked for"):
        audit(adapted(mixture, train), narrower)


# --------------------------------------------------------------------------------------------------------------
# dropout, initialisation, groups


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "qwen2_moe"])
def test_dropout_acts_on_linear_layers_in_training_only(name: str, tmp_path: Path) -> None:
    train = train_config(lora={"dropout": 0.5})
    model = adapted(tiny_dense(tmp_path, family=name, vocabulary=100), train)
    awaken(model)
    rates = {
        getattr(layer.lora_dropout["default"], "p", 0.0)
        for layer in model.modules()
        if isinstance(layer, LoraLayer) and not isinstance(layer, ParamWrapper)
    }
    assert rates == {0.5}
    ids = torch.randint(0, 100, (1, 12))
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        model.train()
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    notes = audit(model, train).lines()[1:]
    assert any("dropout 0.5 acts on the linear layers of attention only" in note for note in notes) == (name != "qwen3")


OTHER_PROCESS = """
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.training.test_lora import adapted, fingerprint
from tests.training.tiny import train_config

torch.manual_seed(99)
print(fingerprint(adapted(Path(sys.argv[1]), train_config(seed=7))))
"""


@pytest.fixture(scope="module", autouse=True)
def other_process(mixture: Path) -> Iterator[subprocess.Popen[str]]:
    """Started before the first test of this file: its imports take as long as most of the tests."""
    command = [sys.executable, "-c", OTHER_PROCESS, str(mixture)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "123"}
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process


def fingerprint(model: Any) -> str:
    """Names and values of what is trained, as one digest."""
    digest = hashlib.sha256()
    for name, parameter in trained_parameters(model):
        assert parameter.dtype == torch.float32
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def test_adapters_start_as_pefts_do(mixture: Path) -> None:
    model = adapted(mixture, train_config())
    for name, parameter in trained_parameters(model):
        bound = 1 / math.sqrt(parameter.shape[1])
        assert (parameter.abs().max() == 0) if ".lora_B." in name else (0.8 * bound < parameter.abs().max() <= bound)


def test_groups_decay_and_scale(mixture: Path) -> None:
    train = train_config(lora={"expert_lr_scale": 0.5}, optim={"lr": 1e-3, "weight_decay": 0.1})
    model = adapted(mixture, train)
    groups = parameter_groups(model, train)
    assert [(group["weight_decay"], group["lr_scale"]) for group in groups] == [(0.1, 1.0), (0.1, 0.5)]
    experts = {id(p) for name, p in trained_parameters(model) if family(name) == "experts"}
    assert {id(p) for p in groups[1]["params"]} == experts
    assert sum(len(group["params"]) for group in groups) == len(trained_parameters(model))
    full = train_config(method="full", optim={"lr": 1e-5, "weight_decay": 0.1})
    plain = parameter_groups(load_model(full, mixture, CPU), full)
    assert {group["weight_decay"]: {p.ndim == 1 for p in group["params"]} for group in plain} == {
        0.1: {False},
        0.0: {True},
    }


# --------------------------------------------------------------------------------------------------------------
# init_adapter


def test_a_run_starts_from_another_runs_adapter(mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_RUNS", str(tmp_path))
    train = train_config()
    source = adapted(mixture, train)
    awaken(source)
    folder = tmp_path / "first-0" / "adapter"
    state = adapters.adapter_state(source, dict(source.named_parameters()))
    folder.parent.mkdir()
    adapters.save_adapter(source, state.items(), folder, train, "first-0", {"step": 1}, mixture)

    again = adapted(mixture, train_config(lora={"init_adapter": "first-0/adapter"}))
    assert fingerprint(again) == fingerprint(source)
    cases = [
        ({"rank": 8}, "is .4, 64. there and .8, 64. here: use the same train.lora.rank"),
        ({"targets": SEVEN[:4]}, "adapts other layers than this run"),
        ({"alpha": 16}, "lora_alpha is 8 there and 16 here: use the same train.lora"),
        ({"init_adapter": "other/adapter"}, "other/adapter has no adapter_model.safetensors"),
    ]
    for changes, sentence in cases:
        with pytest.raises(ConfigError, match=sentence):
            adapted(mixture, train_config(lora={"init_adapter": "first-0/adapter", **changes}))
    weights = bytearray((folder / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="the file is damaged"):
        adapted(mixture, train_config(lora={"init_adapter": "first-0/adapter"}))


def test_adapters_start_equal_in_every_process(mixture: Path, other_process: subprocess.Popen[str]) -> None:
    here = fingerprint(adapted(mixture, train_config(seed=7)))
    assert other_process.communicate()[0].split()[-1] == here
    assert fingerprint(adapted(mixture, train_config(seed=8))) != here
