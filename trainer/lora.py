"""Where the adapters go and how they start: one LoraConfig, exact targets, the same initial weights on every rank.

Linear layers are named by a regular expression made from the model's own layers, so that neither router nor expert
can match. A mixture's fused experts are parameters and go by name, at their own rank. In a mixture, linear layers
called gate_proj, up_proj or down_proj (a shared expert, a dense layer) go as parameters too: PEFT takes such names
for old experts, would rewrite them and double their rank.
"""

import hashlib
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from trainer import adapters
from trainer.atomic import read_object
from trainer.errors import ConfigError
from trainer.fast.experts import adapt_our_experts
from trainer.fast.loss import causal_model
from trainer.schema import contract, parameters
from trainer.schema.config import TrainConfig
from trainer.schema.method import Lora

FUSED = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "gate_proj": ("gate_proj",),
    "up_proj": ("up_proj",),
    "down_proj": ("down_proj",),
}
"""Name of a parameter that holds one matrix per expert -> the targets that it contains."""


@dataclass(frozen=True)
class Targets:
    """Full names in the base model of what gets an adapter."""

    linears: tuple[str, ...]
    weights: tuple[str, ...]
    experts: tuple[str, ...]


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The base model's linear layers by their name before any adapter, the output head left out."""
    base = causal_model(model)
    head = base.get_output_embeddings()
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in name:
            yield name.replace(".base_layer", ""), module


def fused_experts(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The base model's expert parameters, one matrix per expert, by their name before any adapter."""
    for name, parameter in causal_model(model).named_parameters():
        if parameter.ndim == 3 and name.rpartition(".")[2] in FUSED:
            yield name.replace(".base_layer", ""), parameter


def find_targets(model: nn.Module, train: TrainConfig) -> Targets:
    """What `train.lora.targets` means on this model; ConfigError names the first target that it does not have."""
    lora = train.lora
    assert lora is not None
    asked = set(lora.linear_targets)
    all_linears = [name for name, _ in linear_layers(model)]
    linears = [name for name in all_linears if name.rpartition(".")[2] in asked]
    fused = [name for name, _ in fused_experts(model)]
    for name in fused:
        parts = FUSED[name.rpartition(".")[2]]
        if 0 < len(asked & set(parts)) < len(parts):
            raise ConfigError(
                f"train.lora.targets: {' and '.join(parts)} are one fused tensor in {name}: name both or neither"
            )
    experts = [name for name in fused if asked.issuperset(FUSED[name.rpartition(".")[2]])]
    found = {name.rpartition(".")[2] for name in linears}
    found.update(part for name in experts for part in FUSED[name.rpartition(".")[2]])
    missing = [name for name in lora.linear_targets if name not in found]
    if missing and (lora.targets != ("all-linear",) or not found):
        has = sorted({name.rpartition(".")[2] for name in all_linears} | {name.rpartition(".")[2] for name in fused})
        kind = causal_model(model).config.model_type
        raise ConfigError(f"train.lora.targets: {missing[0]} is no layer of {kind}; it has {', '.join(has) or 'none'}")
    as_weights = [
        name for name in linears if fused and name.rpartition(".")[2] in ("gate_proj", "up_proj", "down_proj")
    ]
    return Targets(tuple(n for n in linears if n not in as_weights), tuple(as_weights), tuple(experts))


def expert_rank(model: nn.Module, lora: Lora) -> int:
    """The rank of each pair of a mixture's fused experts."""
    config = causal_model(model).config.get_text_config()
    names = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts")
    active = next((getattr(config, name) for name in names if getattr(config, name, None)), 1)
    return lora.expert_rank or parameters.expert_rank(lora.rank, active)


def lora_config(model: nn.Module, train: TrainConfig) -> LoraConfig:
    """The one LoraConfig of the run, as plain PEFT loads it. The scale is the same on linear layers and experts.

    PEFT refuses dropout beside adapted parameters, so on a mixture the config says 0 and add_adapters puts the
    dropout into the linear layers; it only acts in training.
    """
    lora = train.lora
    assert lora is not None
    targets = find_targets(model, train)
    experts, weights = _short_names(targets.experts), [f"{name}.weight" for name in _short_names(targets.weights)]
    rank, alpha = expert_rank(model, lora), lora.effective_alpha
    ratio = rank / lora.rank
    own_alpha = alpha * (math.sqrt(ratio) if lora.rslora else ratio)
    patterns = sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in targets.linears})
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=_whole(alpha),
        lora_dropout=0.0 if experts or weights else lora.dropout,
        use_rslora=lora.rslora,
        target_modules="|".join(patterns) or [],
        target_parameters=experts + weights or None,
        rank_pattern={name: rank for name in experts},
        alpha_pattern={name: _whole(own_alpha) for name in experts},
    )


def _short_names(names: tuple[str, ...]) -> list[str]:
    """model.layers.3.mlp.experts.down_proj -> mlp.experts.down_proj, each once: PEFT matches the end of a name."""
    return sorted({re.split(r"\.\d+\.", name)[-1] for name in names})


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def add_adapters(model: PreTrainedModel, train: TrainConfig) -> PeftModel:
    """The model with its adapters, fp32, everything else frozen; the same weights from `train.seed` on every rank.

    ConfigError for targets that the model does not have and for an init_adapter that does not fit.
    """
    lora = train.lora
    assert lora is not None
    config = lora_config(model, train)
    with warnings.catch_warnings():
        # PEFT looks for the patterns' keys among modules only; ours name parameters, and the audit counts them.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        wrapped = get_peft_model(model, config)
    if lora.dropout and not config.lora_dropout:
        for layer in wrapped.modules():
            if isinstance(layer, LoraLayer) and not isinstance(layer, ParamWrapper):
                layer.lora_dropout["default"] = nn.Dropout(lora.dropout)
    trained = [(name, parameter) for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    if not any(parameter.is_meta for _, parameter in trained):
        _initialise(trained, train.seed)
        if lora.init_adapter is not None:
            runs = contract.mounted(contract.ENV_RUNS)
            _start_from(wrapped, runs / lora.init_adapter)
    adapt_our_experts(wrapped)
    return wrapped


@torch.no_grad()
def _initialise(trained: list[tuple[str, nn.Parameter]], seed: int) -> None:
    """PEFT's own distributions (A uniform in +-1/sqrt(inputs), B zero), each tensor from its own name's stream."""
    for name, parameter in trained:
        if ".lora_B." in name:
            parameter.zero_()
            continue
        stream = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7])
        bound = 1 / math.sqrt(parameter.shape[1])
        generator = torch.Generator().manual_seed(stream)
        parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


@torch.no_grad()
def _start_from(model: PeftModel, folder: Path) -> None:
    where = f"train.lora.init_adapter: {folder}"
    if not (folder / adapters.WEIGHTS).is_file():
        raise ConfigError(f"{where} has no {adapters.WEIGHTS}: name an adapter folder below the runs volume")
    adapters.verify_adapter(folder)
    own = {adapters.state_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    given = load_file(folder / adapters.WEIGHTS)
    if set(given) != set(own):
        odd = sorted(set(given) ^ set(own))[0]
        raise ConfigError(f"{where} adapts other layers than this run ({odd}): use the same train.lora.targets")
    for name, parameter in own.items():
        if given[name].shape != parameter.shape:
            ours, theirs = list(parameter.shape), list(given[name].shape)
            raise ConfigError(f"{where}: {name} is {theirs} there and {ours} here: use the same train.lora.rank")
        parameter.copy_(given[name])
    _same_scale(model, folder / "adapter_config.json", where)


def _same_scale(model: PeftModel, path: Path, where: str) -> None:
    """The same weights times another scale are another adapter. ConfigError names the first difference."""
    theirs, ours = read_object(path), model.peft_config["default"].to_dict()
    for name in ("lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"):
        if theirs.get(name) != ours[name]:
            raise ConfigError(
                f"{where}: {name} is {theirs.get(name)} there and {ours[name]} here: use the same train.lora"
            )
