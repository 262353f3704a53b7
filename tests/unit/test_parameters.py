"""Parameter counts against numbers taken from the models themselves as transformers and PEFT build them."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.commands.validate import millions
from kctl.config.resolve import shipped_configs
from kctl.config.run_config import load
from trainer.errors import ConfigError
from trainer.schema.method import Lora
from trainer.schema.parameters import (
    expert_rank,
    known_models,
    known_shape,
    lora_parameters,
    shape_of,
    total_parameters,
)

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
}
MOE = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
# model_type, other keys, parameters of the model, trained by PEFT at rank 16 with experts at rank 4 (all seven targets)
BUILT = [
    ("llama", {}, 136256, 59392),
    ("llama", {"tie_word_embeddings": True, "head_dim": 32}, 179008, 71680),
    ("llama", {"attention_bias": True}, 137024, 59392),
    ("mistral", {}, 136256, 59392),
    ("qwen2", {}, 136768, 59392),
    ("qwen3", {"head_dim": 32}, 185664, 71680),
    ("qwen3", {"head_dim": 16, "attention_bias": True}, 137152, 59392),
    ("qwen3_moe", {"head_dim": 16, **MOE}, 161984, 43008),
    ("qwen2_moe", {"shared_expert_intermediate_size": 48, **MOE}, 199488, 64512),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, 358464, 55296),
]
# Parameters as the models' own pages give them: the sum over their safetensors files, tied weights once.
PUBLISHED = {
    "Llama-3.1-8B-Instruct": 8_030_261_248,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B-Instruct": 3_212_749_824,
    "Llama-3.3-70B-Instruct": 70_553_706_496,
    "Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "Mistral-Small-24B-Instruct-2501": 23_572_403_200,
    "Mixtral-8x7B-Instruct-v0.1": 46_702_792_704,
    "Mixtral-8x22B-v0.1": 140_620_634_112,
    "Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B-Instruct-2507": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B-Instruct": 1_711_376_384,
    "gemma-2b": 2_506_172_416,
    "gemma-7b-it": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b-it": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b-it": 999_885_952,
}


@pytest.mark.parametrize(("kind", "extra", "total", "trained"), BUILT)
def test_counts_are_those_of_the_built_model(kind: str, extra: dict[str, Any], total: int, trained: int) -> None:
    shape = shape_of({"model_type": kind, **BASE, **extra})
    assert total_parameters(shape) == total
    assert sum(lora_parameters(shape, Lora(rank=16, expert_rank=4)).values()) == trained


def test_the_shipped_sizes_count_what_their_models_have() -> None:
    counted = {}
    for name in PUBLISHED:
        shape = known_shape(f"organisation/{name}")
        assert shape is not None
        counted[name] = total_parameters(shape)
    assert counted == PUBLISHED
    # Every shape that is shipped is one of these, by its own name or by another.
    models = known_models()
    proved = [models[name] for name in PUBLISHED]
    assert [name for name, model in models.items() if model not in proved] == []


def test_layers_without_experts_are_counted_as_dense() -> None:
    sparse = {"head_dim": 16, **MOE, "decoder_sparse_step": 2, "mlp_only_layers": [1]}
    shape = shape_of({"model_type": "qwen3_moe", **BASE, **sparse})
    assert (shape.mlp_layers, shape.expert_layers, total_parameters(shape)) == (3, 1, 142784)


def test_qwen3_30b_a3b() -> None:
    shape = known_shape("hub/Qwen3-30B-A3B-Instruct-2507")
    assert shape is not None and shape == known_shape("Qwen3-30B-A3B/")
    assert total_parameters(shape) == 30_532_122_624
    assert lora_parameters(shape, Lora(rank=64, expert_rank=64)) == {"attention": 53_477_376, "experts": 2_516_582_400}
    assert lora_parameters(shape, Lora(rank=64)) == {"attention": 53_477_376, "experts": 314_572_800}
    down = Lora(rank=64, targets=("down_proj",))
    assert lora_parameters(shape, down) == {"experts": 48 * 128 * 8 * (768 + 2048)}


def test_smollm2_135m() -> None:
    shape = known_shape("SmolLM2-135M-Instruct")
    assert shape is not None
    assert total_parameters(shape) == 134_515_008


def test_qwen3_32b() -> None:
    sizes = {"hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8}
    shape = shape_of(
        {"model_type": "qwen3", **sizes, "head_dim": 128, "intermediate_size": 25600, "vocab_size": 151936}
    )
    assert sum(lora_parameters(shape, Lora(rank=64)).values()) == 536_870_912
    attention = Lora(rank=64, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    assert lora_parameters(shape, attention) == {"attention": 159_383_552}


@pytest.mark.parametrize(
    ("rank", "experts", "expected"),
    [(64, 8, 8), (32, 8, 8), (128, 8, 16), (256, 8, 32), (100, 8, 16), (64, 2, 32), (1, 1, 8)],
)
def test_the_default_rank_of_experts(rank: int, experts: int, expected: int) -> None:
    assert expert_rank(rank, experts) == expected


@pytest.mark.parametrize("name", sorted(path.stem for path in shipped_configs().glob("*.yaml")))
def test_the_comments_of_shipped_configs_tell_the_truth(name: str) -> None:
    loaded = load(name, [])
    comment = "\n".join(line for line in loaded.path.read_text().splitlines() if line.startswith("#"))
    shape, lora = loaded.config.shape, loaded.config.train.lora
    assert shape is not None
    found = {"together": total_parameters(shape)} if lora is None else lora_parameters(shape, lora)
    found.setdefault("together", sum(found.values()))
    told = dict(re.findall(r"(attention|mlp|experts|together) +([0-9,.]+ M)", comment))
    assert told == {family: millions(count) for family, count in found.items()}
    if lora is not None:
        assert re.search(rf"rank {lora.rank} +attention", comment)
        assert ("experts" not in found) or re.search(rf"expert_rank {lora.expert_rank} +experts", comment)


def test_what_is_no_known_model() -> None:
    assert known_shape("some/other") is None
    with pytest.raises(ConfigError, match="model_type 'mamba' is not one of"):
        shape_of({"model_type": "mamba"})
    with pytest.raises(ConfigError, match="only models of text alone"):
        shape_of({"model_type": "gemma3", "vision_config": {"hidden_size": 8}, "text_config": {"model_type": "llama"}})
    with pytest.raises(ConfigError, match="num_experts_per_tok must be a whole number"):
        shape_of({"model_type": "qwen3_moe", **BASE, **MOE, "num_experts_per_tok": 0})
    with pytest.raises(ConfigError, match="name both or neither"):
        lora_parameters(shape_of({"model_type": "qwen3_moe", **BASE, **MOE}), Lora(rank=8, targets=("gate_proj",)))


ODD = (
    st.none()
    | st.booleans()
    | st.integers(-2, 10)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.none(), max_size=2)
)
KEYS = [*BASE, *MOE, "head_dim", "mlp_only_layers", "decoder_sparse_step", "num_local_experts", "text_config"]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["llama", "gemma2", "qwen2_moe", "qwen3_moe", "mixtral", "x", None]),
    st.dictionaries(st.sampled_from(KEYS), ODD, max_size=4),
)
def test_any_config_json_is_counted_or_refused(kind: str | None, odd: dict[str, Any]) -> None:
    try:
        shape = shape_of({"model_type": kind, **BASE, **MOE, "shared_expert_intermediate_size": 16, **odd})
    except ConfigError:
        return
    assert total_parameters(shape) > 0
