"""Packed rows: every item as if alone, for every tested family; what cannot be packed is found out."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests.training.tiny import DENSE, MIXTURES, awaken, tiny_dense, train_config
from trainer.errors import ConfigError
from trainer.fast import attention
from trainer.fast.attention import Unsupported, packed_inputs, register, use_packed_attention
from trainer.fast.loss import forward_hidden, label_loss, output_head
from trainer.fast.self_check import self_check
from trainer.model import add_adapters, load_model, trained_parameters

CPU = torch.device("cpu")
LENGTHS = [7, 1, 12, 5]
SMALL: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}


@pytest.fixture(scope="module", params=DENSE + MIXTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_dense(tmp_path_factory.mktemp("model"), family=request.param, vocabulary=300)
    train = train_config()
    adapted = add_adapters(load_model(train, folder, CPU), train)
    awaken(adapted)
    return adapted.eval()


def tokens(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 200, (length,), generator=generator) for length in LENGTHS]


def logits(model: Any, items: list[torch.Tensor]) -> torch.Tensor:
    inputs = packed_inputs([len(item) for item in items], CPU)
    return output_head(model)(forward_hidden(model, torch.cat(items)[None], inputs))


def test_the_families_named_in_the_readme_are_those_tested() -> None:
    text = Path(attention.__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("- dense: ", "- mixtures of experts: "))]
    assert [set(re.findall("`([a-z0-9_]+)`", line)) for line in lines] == [set(DENSE), set(MIXTURES)]


def test_packed_logits_equal_each_item_alone(model: Any) -> None:
    items = tokens()
    with torch.no_grad():
        alone = torch.cat([model(input_ids=item[None]).logits[0] for item in items])
        packed = logits(model, items)
    assert model.config._attn_implementation == "kctl"
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


def test_packed_gradients_equal_the_sum_of_each_item_alone(model: Any) -> None:
    items = tokens()
    named = trained_parameters(model)

    def gradients(rows: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        total = torch.zeros(())
        for row in rows:
            bounds = torch.tensor([0, *[len(item) for item in row]]).cumsum(0)
            ids = torch.cat(row)
            positions = torch.cat([torch.arange(start, end - 1) for start, end in itertools.pairwise(bounds)])
            hidden = forward_hidden(model, ids[None], packed_inputs([len(item) for item in row], CPU))
            total = total + label_loss(hidden, output_head(model), ids[positions + 1], positions)[0]
        return list(torch.autograd.grad(total, [parameter for _, parameter in named]))

    packed, alone = gradients([items]), gradients([[item] for item in items])
    for (name, _), ours, theirs in zip(named, packed, alone, strict=True):
        assert theirs.norm() > 0, name
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm(), name


def test_another_item_in_the_row_changes_nothing(model: Any) -> None:
    items, other = tokens(), tokens(seed=2)
    with torch.no_grad():
        before = logits(model, items)[-LENGTHS[-1] :]
        after = logits(model, [*other[:-1], items[-1]])[-LENGTHS[-1] :]
    if model.config.model_type in DENSE:
        assert torch.equal(before, after)
    else:
        # other tokens meet the same experts: matrix products of other shapes, other last bits
        torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")
def test_recomputed_layers_give_the_same_gradients(model: Any) -> None:
    items = tokens()
    ids = torch.cat(items)
    named = trained_parameters(model)

    def gradients() -> list[torch.Tensor]:
        hidden = forward_hidden(model, ids[None], packed_inputs(LENGTHS, CPU))
        total, _ = label_loss(hidden, output_head(model), ids[1:7], torch.arange(6))
        return list(torch.autograd.grad(total, [parameter for _, parameter in named]))

    model.train()
    plain = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    recomputed = gradients()
    model.gradient_checkpointing_disable()
    model.eval()
    for (name, _), ours, theirs in zip(named, recomputed, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, msg=name)


def test_self_check_passes_and_keeps_our_attention(model: Any) -> None:
    base = model.get_base_model()
    assert self_check(base, CPU) is None
    assert base.config._attn_implementation == "kctl"
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_self_check_passes_in_bf16(family: str, tmp_path: Path) -> None:
    folder = tiny_dense(tmp_path, family=family, vocabulary=300)
    loaded = load_model(train_config(precision="bf16"), folder, CPU)
    assert loaded.dtype == torch.bfloat16
    assert self_check(loaded, CPU) is None


# --------------------------------------------------------------------------------------------------------------
# other families: made from their configs


def built(config: transformers.PreTrainedConfig, max_length: int = 1024) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    register("auto")
    use_packed_attention(model, max_length)
    return model


def mamba() -> transformers.PreTrainedConfig:
    return transformers.MambaConfig(vocab_size=200, hidden_size=64, num_hidden_layers=2, state_size=8)


def falcon_h1(**changes: Any) -> transformers.PreTrainedConfig:
    mixer = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
    return transformers.FalconH1Config(**SMALL, **mixer, **changes)


def convolution() -> transformers.PreTrainedConfig:
    sizes = {key: value for key, value in SMALL.items() if not key.endswith("token_id")}
    return transformers.Lfm2Config(**sizes, layer_types=["conv", "full_attention"])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (mamba, "mamba takes no position ids"),
        (falcon_h1, "falcon_h1: an item changes with the item before it"),
        (convolution, "lfm2: an item changes with the item before it"),
    ],
)
def test_self_check_finds_what_cannot_be_packed(make: Callable[[], transformers.PreTrainedConfig], reason: str) -> None:
    model = built(make())
    found = self_check(model, CPU)
    assert found is not None and found.startswith(reason)
    item = tokens()[2]
    with torch.no_grad():  # and it still runs, one item a row
        hidden = forward_hidden(model, item[None], packed_inputs([len(item)], CPU))
        torch.testing.assert_close(output_head(model)(hidden), model(input_ids=item[None]).logits[0])


def test_a_soft_cap_runs_in_the_attention_that_has_it() -> None:
    model = built(transformers.Gemma2Config(**SMALL, head_dim=16))
    assert model.config._attn_implementation == "eager"
    assert self_check(model, CPU) is None


def test_sinks_are_found_when_they_are_met() -> None:
    sizes = {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}
    model = built(transformers.GptOssConfig(**SMALL, **sizes, sliding_window=4096))
    assert model.config._attn_implementation == "kctl"
    # its eager attention keeps no packed items apart: they run one a row, and the check says so
    assert self_check(model, CPU) == "gpt_oss: an item changes with the item before it in its row"
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(("window", "expected"), [(64, "sdpa"), (4096, "kctl")])
def test_a_window_shorter_than_an_item_keeps_transformers_attention(window: int, expected: str) -> None:
    model = built(transformers.MistralConfig(**SMALL, head_dim=16, sliding_window=window))
    assert self_check(model, CPU) is None
    assert model.config._attn_implementation == expected


def test_logits_that_are_no_function_of_the_last_hidden_state_are_refused() -> None:
    with pytest.raises(ConfigError, match="falcon_h1 does not compute its logits from the last hidden state"):
        self_check(built(falcon_h1(lm_head_multiplier=0.5)), CPU)


# --------------------------------------------------------------------------------------------------------------
# the kernel and its inputs


class Layer(torch.nn.Module):
    is_causal = True


def call(rows: int = 1, keys: int = 6, mask: torch.Tensor | None = None, **arguments: Any) -> torch.Tensor:
    query, key = torch.randn(rows, 4, 6, 8), torch.randn(rows, 2, keys, 8)
    layer = Layer()
    layer.is_causal = arguments.pop("causal", True)
    return attention._attention(layer, query, key, key, mask, attention.ITEM_BY_ITEM, **arguments)[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"softcap": 50.0}, "softcap"),
        ({"s_aux": torch.zeros(4)}, "s_aux"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"sliding_window": 4}, "sliding_window 4 with items of 6 tokens"),
        ({"dropout": 0.1}, "dropout"),
        ({"mask": torch.zeros(1, 1, 6, 6)}, "attention_mask"),
        ({"keys": 9}, "a cache"),
        ({"rows": 2}, "2 rows at once"),
        ({"causal": False}, "attention to later tokens"),
        ({"is_causal": False}, "attention to later tokens"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_what_is_not_implemented_is_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        call(**arguments)


def test_harmless_arguments_pass() -> None:
    quiet = {"softcap": None, "sliding_window": 6, "dropout": 0.0, "output_attentions": False, "use_cache": False}
    assert call(**quiet).shape == (1, 6, 4, 8)


def test_bounds_must_end_with_the_row() -> None:
    with pytest.raises(ValueError, match="ends at 5, the row has 6 tokens"):
        call(cu_seq_lens_q=torch.tensor([0, 5], dtype=torch.int32), max_length_q=5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_packed_inputs_count_from_zero_in_every_item(lengths: list[int]) -> None:
    inputs = packed_inputs(lengths, CPU)
    assert inputs["position_ids"].tolist() == [[place for length in lengths for place in range(length)]]
    assert inputs["cu_seq_lens_q"].dtype == torch.int32
    assert inputs["cu_seq_lens_q"].tolist() == [sum(lengths[:count]) for count in range(len(lengths) + 1)]
    assert inputs["cu_seq_lens_k"].equal(inputs["cu_seq_lens_q"])
    assert (inputs["max_length_q"], inputs["max_length_k"]) == (max(lengths), max(lengths))


@pytest.mark.parametrize("lengths", [[], [3, 0], [-1]])
def test_empty_items_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        packed_inputs(lengths, CPU)


def test_the_log_names_the_kernel() -> None:
    assert register("reference") == "sdpa item by item"
    assert register("auto") == ("torch varlen" if torch.cuda.is_available() else "sdpa item by item")
