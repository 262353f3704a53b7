"""The model that answers: base and adapter as plain weights, with transformers' own attention and cache."""

import warnings
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from trainer.after.deltas import empty_model, pairs_of
from trainer.after.finished import Finished
from trainer.errors import ConfigError, first_line
from trainer.model import DTYPES, check_weights, read_config


def load_answering(run: Finished, device: torch.device) -> Any:
    """In the run's precision. ConfigError or CheckpointError where base or adapter cannot be loaded whole.

    The adapter is merged: PEFT adds B A to all experts' weights at every token otherwise. In bf16 that rounds once.
    """
    folder = run.adapter if run.full else run.base
    config = read_config(folder)
    check_weights(folder)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[run.file.train.precision],
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            device_map={"": device} if device.type == "cuda" else None,
            output_loading_info=True,
        )
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(f"{folder}: cannot be loaded: {first_line(error)}") from None
    if info["missing_keys"]:
        raise ConfigError(f"{folder}: weights are missing ({min(info['missing_keys'])}): copy the model again")
    if not run.full:
        model = _with_adapter(model, run)
    model.generation_config = GenerationConfig()  # the model's own would add to what is asked for
    return model.eval()


def _with_adapter(model: Any, run: Finished) -> Any:
    pairs_of(empty_model(run.base), run.adapter)  # PEFT only warns of what is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of patterns that name parameters: they apply
        return PeftModel.from_pretrained(model, str(run.adapter)).merge_and_unload()
