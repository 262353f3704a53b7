"""Tiny random models for the training tests, saved as real model folders: hidden 64, 2 layers, 4 heads, 2 kv heads."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.auto import AutoModelForCausalLM

from trainer.schema.config import TrainConfig

DENSE = ("qwen3", "llama", "qwen2")
MIXTURES = ("qwen3_moe", "qwen2_moe", "mixtral", "olmoe")
QWEN3_VOCABULARY = 151_936
SMALL_VOCABULARY = 1_024
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,  # larger than usual, so that attention and experts matter to the logits
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}


def config_of(family: str, vocabulary: int = QWEN3_VOCABULARY) -> PreTrainedConfig:
    """The family's configuration at tiny sizes: 8 experts, 2 a token, where it has experts."""
    sizes = {**_SIZES, "vocab_size": vocabulary}
    head = {"head_dim": 16}
    mixture = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    if family == "qwen3":
        return Qwen3Config(**sizes, **head)
    if family == "llama":
        return LlamaConfig(**sizes, **head)
    if family == "qwen2":
        return Qwen2Config(**sizes)
    if family == "qwen3_moe":
        return Qwen3MoeConfig(**sizes, **head, **mixture, norm_topk_prob=True, mlp_only_layers=[])
    if family == "qwen2_moe":
        return Qwen2MoeConfig(**sizes, **mixture, shared_expert_intermediate_size=48)
    if family == "mixtral":
        return MixtralConfig(**sizes, num_local_experts=8, num_experts_per_tok=2)
    if family == "olmoe":
        return OlmoeConfig(**sizes, num_experts=8, num_experts_per_tok=2)
    raise ValueError(family)


def tiny_dense(
    folder: Path,
    seed: int = 0,
    family: str = "qwen3",
    tokenizer: Path | None = None,
    vocabulary: int = QWEN3_VOCABULARY,
) -> Path:
    """Save a random fp32 model of `family` in `folder` (39 MB at Qwen3's vocabulary), with the tokenizer files of
    the folder `tokenizer` beside it; returns `folder`."""
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config_of(family, vocabulary), dtype=torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json") if tokenizer is not None else ():
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


def tiny_mixture(
    folder: Path,
    seed: int = 0,
    family: str = "qwen3_moe",
    tokenizer: Path | None = None,
    vocabulary: int = QWEN3_VOCABULARY,
) -> Path:
    """As tiny_dense, a mixture of 8 experts."""
    return tiny_dense(folder, seed, family, tokenizer, vocabulary)


def small_tokenizer(folder: Path, texts: list[Path]) -> Path:
    """Train a real byte-level BPE on `texts` and save it with the ChatML template. Qwen3's vocabulary would cost the
    tests of arithmetic minutes of logits; what depends on the tokenizer is tested with Qwen3's own."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=SMALL_VOCABULARY,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in texts], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def train_config(**changes: Any) -> TrainConfig:
    """A small LoRA run in fp32; `changes` are fields of TrainConfig, a dict for `lora` replaces single fields of it."""
    lora = {"rank": 4, "alpha": 8, "expert_rank": None, **(changes.pop("lora", {}) or {})}
    values = {
        "model": {"path": "tiny"},
        "data": {"path": "train.jsonl", "format": "messages"},
        "optim": {"lr": 1e-3, "weight_decay": 0.01},
        "precision": "fp32",
        **({} if changes.get("method") == "full" else {"lora": lora}),
    }
    return TrainConfig.model_validate(values | changes)


def awaken(model: torch.nn.Module, seed: int = 3) -> None:
    """Random B matrices, so that the adapters do something: they start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
