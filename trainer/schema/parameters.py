"""How many parameters a causal language model has, and how many of them an adapter trains, from config.json alone.

Covers dense models in the Llama layout (llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3) and mixtures (qwen2_moe,
qwen3_moe, mixtral).
Counts are of the model as transformers builds it: exact, torch-free, nothing is downloaded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError
from trainer.schema.method import Lora

FAMILIES = ("attention", "mlp", "shared_expert", "experts")
"""What an adapter can be on, in the order of every table."""

DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
MIXTURES = ("qwen2_moe", "qwen3_moe", "mixtral")

SHAPES = Path(__file__).with_name("shapes.json")
"""config.json of common models by folder name, as far as it counts here; a name in place of one: that model's.
kctl has no models volume to look into. A test compares the counts with the published ones."""


@dataclass(frozen=True)
class Shape:
    """The sizes that decide every count. A dense model has no experts; `mlp_layers` have a plain MLP."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    qkv_bias: bool
    output_bias: bool
    qk_norm: bool
    mlp_layers: int
    mlp_width: int
    norms: int = 2
    """Over the hidden state, in each layer."""
    special_attention: bool = False
    """Soft caps or windows, for which the trainer keeps transformers' own."""
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0

    @property
    def expert_layers(self) -> int:
        """Layers whose MLP is a mixture."""
        return self.layers - self.mlp_layers


def known_shape(folder: str) -> Shape | None:
    """The shape of a common model, by the last part of its folder or of its name on the hub; None for any other."""
    config = known_models().get(folder.rstrip("/").rpartition("/")[2])
    return None if config is None else shape_of(config)


@cache
def known_models() -> Mapping[str, Mapping[str, Any]]:
    """Folder names and the sizes that their config.json has."""
    written = json.loads(SHAPES.read_text(encoding="ascii"))
    return {name: written[told] if isinstance(told, str) else told for name, told in written.items()}


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that a Hugging Face config.json describes; ConfigError where a size is missing or the type unknown."""
    if config.get("vision_config"):
        raise ConfigError("config.json: vision_config: only models of text alone are counted")
    config = config["text_config"] if isinstance(config.get("text_config"), Mapping) else config
    kind = config.get("model_type")
    if kind not in DENSE + MIXTURES:
        raise ConfigError(f"config.json: model_type {kind!r} is not one of {', '.join(DENSE + MIXTURES)}")
    hidden, heads, layers = (_size(config, key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    experts = _experts(config, kind, layers) if kind in MIXTURES else {"mlp_layers": layers}
    return Shape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", heads),
        head_dim=_size(config, "head_dim", 256 if kind.startswith("gemma") else max(hidden // heads, 1)),
        vocab=_size(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", kind.startswith("gemma"))),
        qkv_bias=_qkv_bias(config, kind),
        output_bias=not kind.startswith("qwen2") and bool(config.get("attention_bias", False)),
        qk_norm=kind in ("qwen3", "qwen3_moe", "gemma3_text"),
        mlp_width=_size(config, "intermediate_size"),
        norms=4 if kind in ("gemma2", "gemma3_text") else 2,
        special_attention=kind in ("gemma2", "gemma3_text"),
        **experts,
    )


def _qkv_bias(config: Mapping[str, Any], kind: str) -> bool:
    if kind == "qwen2_moe":
        return bool(config.get("qkv_bias", True))
    return kind == "qwen2" or bool(config.get("attention_bias", False))


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"config.json: {key} must be a whole number >= 1, got {value!r}")
    return value


def _experts(config: Mapping[str, Any], kind: str, layers: int) -> dict[str, int]:
    if kind == "mixtral":
        width, shared = _size(config, "intermediate_size"), 0
        dense: set[int] = set()
    else:
        width = _size(config, "moe_intermediate_size")
        shared = _size(config, "shared_expert_intermediate_size") if kind == "qwen2_moe" else 0
        every = _size(config, "decoder_sparse_step", 1)
        dense = _mlp_only(config, layers)
        dense |= {layer for layer in range(layers) if (layer + 1) % every}
    return {
        "mlp_layers": len(dense),
        "experts": _size(config, "num_local_experts", config.get("num_experts")),
        "experts_per_token": _size(config, "num_experts_per_tok"),
        "expert_width": width,
        "shared_width": shared,
    }


def _mlp_only(config: Mapping[str, Any], layers: int) -> set[int]:
    named = config.get("mlp_only_layers") or []
    if not isinstance(named, list) or not all(isinstance(layer, int) for layer in named):
        raise ConfigError(f"config.json: mlp_only_layers must be a list of layers, got {named!r}")
    return {layer for layer in named if 0 <= layer < layers}


def total_parameters(shape: Shape) -> int:
    """Every parameter of the base model."""
    hidden, query, keys = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * hidden * query + 2 * hidden * keys
    attention += (query + 2 * keys if shape.qkv_bias else 0) + (hidden if shape.output_bias else 0)
    attention += 2 * shape.head_dim if shape.qk_norm else 0
    shared = 3 * hidden * shape.shared_width + (hidden if shape.shared_width else 0)  # the gate of the shared expert
    mixture = shape.experts * 3 * hidden * shape.expert_width + shape.experts * hidden + shared
    mlp = shape.mlp_layers * 3 * hidden * shape.mlp_width + shape.expert_layers * mixture
    embeddings = shape.vocab * hidden * (1 if shape.tied else 2)
    return embeddings + shape.layers * (attention + shape.norms * hidden) + mlp + hidden


def expert_rank(rank: int, experts_per_token: int) -> int:
    """The default rank of an expert's pairs: rank / experts per token, up to a multiple of 8, at least 8.

    A token passes through that many experts, so the ranks it meets sum to about `rank`; grouped matrix
    multiplication wants multiples of 8.
    """
    return max(8, -(-rank // (experts_per_token * 8)) * 8)


def rank_on_experts(shape: Shape, lora: Lora) -> int:
    """The rank of an expert's pairs in this model."""
    return lora.expert_rank or expert_rank(lora.rank, max(1, shape.experts_per_token))


def lora_parameters(shape: Shape, lora: Lora) -> dict[str, int]:
    """Parameters that the adapter trains by family (FAMILIES), families without any left out."""
    targets, rank, hidden = set(lora.linear_targets), lora.rank, shape.hidden
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    widths = {"q_proj": query, "k_proj": keys, "v_proj": keys, "o_proj": query}
    attention = shape.layers * rank * sum(hidden + width for name, width in widths.items() if name in targets)
    projections = len(targets & {"gate_proj", "up_proj", "down_proj"})
    found = {
        "attention": attention,
        "mlp": shape.mlp_layers * rank * projections * (hidden + shape.mlp_width),
        "shared_expert": shape.expert_layers * rank * projections * (hidden + shape.shared_width)
        if shape.shared_width
        else 0,
        "experts": _expert_parameters(shape, lora, targets),
    }
    return {family: found[family] for family in FAMILIES if found[family]}


def _expert_parameters(shape: Shape, lora: Lora, targets: set[str]) -> int:
    if not shape.experts:
        return 0
    if ("gate_proj" in targets) != ("up_proj" in targets):
        raise ConfigError(
            "train.lora.targets: gate_proj and up_proj are one fused tensor in a mixture's experts: "
            "name both or neither"
        )
    gate_up = shape.hidden + 2 * shape.expert_width if "up_proj" in targets else 0
    down = shape.expert_width + shape.hidden if "down_proj" in targets else 0
    return shape.expert_layers * shape.experts * rank_on_experts(shape, lora) * (gate_up + down)
