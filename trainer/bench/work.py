"""What every row of the benchmark trains: a random-weight model, and made-up items of given lengths.

The speed of a step depends on sizes and lengths alone, so neither weights nor text need be real.
"""

import json
import math
import random
from array import array
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from trainer.dataset.prepared import KIND_ANSWER, KIND_CONTEXT, REPORT, ItemsWriter
from trainer.dataset.report import Report
from trainer.schema.parameters import known_models

ANSWER_SHARE = 6
"""One token in this many, at an item's end, is trained."""


@dataclass(frozen=True)
class Row:
    """One line of the table: who trains what."""

    name: str
    engine: str = "ours"
    """ours, hf (a plain loop over transformers and PEFT) or trl."""
    model: str = "qwen3-30b"
    """As model_config() has it."""
    method: str = "lora"
    rank: int = 64
    expert_rank: int = 0
    """0: adapters on attention alone."""
    dropout: float = 0.0
    items: int = 64
    """A step's items."""
    lengths: str = "lognormal"
    """lognormal: 40 to 1,024 tokens, median 300; uniform: 40 to 700; or one number for all."""
    skewed: bool = False
    """The router prefers some experts: Zipf with exponent 1, without replacement."""
    gpu_gib: float | None = None
    """The GPU's memory is taken to be this."""
    max_gib: float | None = None
    """The trainer may use this much of it."""
    options: str = ""
    """Words that the other engines know: eager, padded=8, packed, checkpointing."""
    steps: int = 6
    ranks: int = 1
    """GPUs, of ours."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of the config's section train that this row has otherwise, of ours; `lora` field by field."""

    @property
    def longest(self) -> int:
        """Tokens of the longest item."""
        return max(item_lengths(self))


def item_lengths(row: Row) -> list[int]:
    """Tokens of each item of a step, the same in every row of the same items and lengths."""
    if row.lengths.isdigit():
        return [int(row.lengths)] * row.items
    if row.lengths == "uniform":
        draw = random.Random(0)
        return [draw.randint(40, 700) for _ in range(row.items)]
    normal = torch.randn(row.items, generator=torch.Generator().manual_seed(0))
    return torch.exp(normal * 0.6 + math.log(300)).long().clamp(40, 1024).tolist()  # type: ignore[no-any-return]


def model_config(name: str) -> PreTrainedConfig:
    """qwen3-30b (a mixture, 30.5 B parameters, 3.3 B a token), qwen3-8b and qwen3-4b (dense), tiny (a mixture), or
    `NAME LAYERS`: so many layers of a model of trainer.schema.parameters.known_models()."""
    dense = {"num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 36, "num_attention_heads": 32}
    large = {"vocab_size": 151_936, "rope_theta": 1e6, "max_position_embeddings": 262_144}
    if name == "qwen3-30b":
        return Qwen3MoeConfig(
            hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
            num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, intermediate_size=6144,
            norm_topk_prob=True, mlp_only_layers=[], **large,
        )  # fmt: skip
    if name == "qwen3-8b":
        return Qwen3Config(hidden_size=4096, intermediate_size=12_288, **dense, **large)
    if name == "qwen3-4b":
        return Qwen3Config(hidden_size=2560, intermediate_size=9728, tie_word_embeddings=True, **dense, **large)
    if name == "tiny":
        return Qwen3MoeConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, intermediate_size=64, vocab_size=512,
            norm_topk_prob=True, mlp_only_layers=[], max_position_embeddings=4096,
        )  # fmt: skip
    known, _, layers = name.partition(" ")
    if known in known_models() and layers.isdigit():
        config = {**known_models()[known], "num_hidden_layers": int(layers)}
        return AutoConfig.for_model(config.pop("model_type"), **config)
    raise ValueError(f"no model {name!r}: qwen3-30b, qwen3-8b, qwen3-4b, tiny, or e.g. 'Qwen3-4B 36'")


def random_model(row: Row, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """The row's model with random weights, made on `device`."""
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(model_config(row.model), dtype=dtype)
    if row.skewed:
        for module in model.modules():
            if type(module).__name__.endswith("TopKRouter"):
                module.forward = _skewed(module)
    return model  # type: ignore[no-any-return]


def _skewed(router: Any) -> Any:
    """The router's forward with Zipf's odds beside what it thinks of a token, as deterministic as it was."""
    odds = -torch.arange(1, router.num_experts + 1, device=router.weight.device, dtype=torch.float32).log()

    def forward(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = hidden.reshape(-1, hidden.shape[-1])
        logits = torch.nn.functional.linear(hidden, router.weight)
        # Random weights give normal logits; as Gumbel noise they draw top k without replacement by the odds.
        normal = (logits.float() - logits.float().mean(-1, keepdim=True)) / logits.float().std(-1, keepdim=True)
        gumbel = -(-torch.special.log_ndtr(normal)).log()
        chosen = (gumbel + odds).topk(router.top_k, dim=-1).indices
        weights = torch.softmax(logits.float().gather(-1, chosen), -1).to(logits.dtype)
        return logits, weights, chosen

    return forward


def write_items(row: Row, folder: Path) -> None:
    """The items of one step as a prepared folder, whose epochs are steps."""
    folder.mkdir(parents=True)
    draw = random.Random(1)
    size = model_config(row.model).vocab_size
    lengths = item_lengths(row)
    with ItemsWriter(folder / "train") as writer:
        for number, length in enumerate(lengths):
            answer = max(8, length // ANSWER_SHARE)
            kinds = bytes([KIND_CONTEXT] * (length - answer) + [KIND_ANSWER] * answer)
            writer.add(f"item-{number}", array("i", (draw.randrange(size) for _ in range(length))), kinds)
    with ItemsWriter(folder / "validation"):
        pass
    empty = {name: 0 for name in Report.__dataclass_fields__}
    (folder / REPORT).write_text(json.dumps({**empty, "dropped": {}, "lengths": {}, "tokens": sum(lengths)}))


def shrunk(row: Row) -> Row:
    """The same row at a size that a CPU trains in seconds, to see that it runs."""
    return replace(
        row, model="tiny", items=min(row.items, 6), lengths="48", rank=4, expert_rank=min(row.expert_rank, 2), steps=3,
        fields={},
    )  # fmt: skip
