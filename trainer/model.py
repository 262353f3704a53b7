"""The base model from its folder, whole or not at all, and the optimiser's groups over what is trained.

Loads safetensors with transformers' own classes only: no code from a model folder runs. Knows nothing of DeepSpeed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from trainer.audit import Audit, audit, family, trained_parameters
from trainer.errors import ConfigError, first_line
from trainer.fast.attention import register, use_packed_attention
from trainer.fast.experts import use_our_experts
from trainer.lora import add_adapters
from trainer.schema.config import TrainConfig

Load = Callable[[TrainConfig, Path, torch.device], Any]
"""What load_model does."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def read_config(folder: Path) -> PreTrainedConfig:
    """config.json as transformers' own class; ConfigError for what cannot be trained."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: train.model must be a folder with a model") from None
    except ValueError as error:
        raise ConfigError(f"{path}: no JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise ConfigError(f"{path}: has no model_type: train.model must be a Hugging Face causal language model")
    if values.get("quantization_config"):
        raise ConfigError(f"{path}: quantization_config: quantised weights are not trained here; use the bf16 model")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError, StrictDataclassError) as error:
        raise ConfigError(f"{path}: model_type {values['model_type']!r}: {first_line(error)}") from None
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ConfigError(f"{path}: model_type {values['model_type']!r} is not a causal language model")
    return config


def check_weights(folder: Path) -> None:
    """ConfigError naming the first weight file that is missing, cut short or not safetensors. Reads headers only."""
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        try:
            files = sorted(
                {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{index}: no index of weight files ({error}): copy the model again") from None
    if not files:
        raise ConfigError(f"{folder}: no *.safetensors: pickled weights are not loaded; convert the model first")
    for path in files:
        try:
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(length, 100_000_000)))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}: copy the model again") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"{path}: no safetensors header: copy the model again") from None
        expected, size = 8 + length + max(ends, default=0), path.stat().st_size
        if size != expected:
            raise ConfigError(f"{path}: {size} bytes, its header says {expected}: copy the model again")


def load_model(train: TrainConfig, folder: Path, device: torch.device) -> PreTrainedModel:
    """The base model on `device` in the run's precision, prepared for training.

    ConfigError naming the file for whatever cannot be loaded whole.
    """
    config = read_config(folder)
    check_weights(folder)
    # ZeRO-3 places what it partitions by itself and refuses a device_map.
    direct = device.type == "cuda" and train.method != "full"
    options: dict[str, Any] = {"device_map": {"": device}} if direct else {}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[train.precision],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(f"{folder}: cannot be loaded: {first_line(error)}") from None
    absent = sorted(loading["missing_keys"])
    if absent:
        raise ConfigError(f"{folder}: {len(absent)} weights are missing ({absent[0]}): copy the model again")
    return prepare_model(model, train, device)


def prepare_model(model: PreTrainedModel, train: TrainConfig, device: torch.device) -> PreTrainedModel:
    """Frozen unless method full, with our attention and experts where they fit."""
    model.config.use_cache = False
    if hasattr(model.config, "output_router_logits"):
        model.config.output_router_logits = False
    register(train.ops.kernels)
    use_packed_attention(model, train.data.max_length)
    model.requires_grad_(train.method == "full")
    if train.ops.kernels == "auto" and device.type == "cuda" and train.precision == "bf16":
        use_our_experts(model)
    elif train.ops.kernels == "reference" and model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    return model


def parameter_groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """AdamW's groups: params, weight_decay, lr_scale. Full: no decay on norms and biases; LoRA: experts apart."""
    scale = train.lora.expert_lr_scale if train.lora is not None else 1.0
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(model):
        decay = train.optim.weight_decay if len(getattr(parameter, "ds_shape", parameter.shape)) > 1 else 0.0
        key = (decay, scale if family(name) == "experts" else 1.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, "lr_scale": lr_scale}
        for (decay, lr_scale), members in groups.items()
    ]


def meta_counts(train: TrainConfig, folder: Path) -> Audit:
    """The audit of the run on tensors without storage, for --dry-run: seconds for any size, no weights read."""
    config = read_config(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[train.precision])
        model.requires_grad_(train.method == "full")
        return audit(add_adapters(model, train) if train.method == "lora" else model, train)
