"""What is trained: counted by family, and compared with what was asked for, layer by layer.

A target that is silently skipped in some layers trains something else than the run's name says; here it ends the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import nn

from trainer.errors import ConfigError
from trainer.fast.loss import causal_model
from trainer.lora import expert_rank, find_targets, fused_experts, linear_layers
from trainer.schema.config import TrainConfig

FAMILIES = ("attention", "mlp", "shared_expert", "experts", "other")

Parameters = list[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Audit:
    """Parameters of the base model, trained ones (adapters lie beside the base), and those by family."""

    total: int
    trained: int
    families: dict[str, int]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the log: the counts on one line, then one line for each thing that was asked for and has no effect."""
        parts = ", ".join(f"{name} {count:,}" for name, count in self.families.items())
        share = 100 * self.trained / self.total
        return [f"trained {self.trained:,} beside {self.total:,} ({share:.2f} %): {parts}", *self.notes]


def family(name: str) -> str:
    """Which of FAMILIES a parameter belongs to, by its name."""
    parts = name.split(".")
    if any(part.startswith("shared_expert") for part in parts):
        return "shared_expert"
    if "experts" in parts:
        return "experts"
    if any(part.endswith(("attn", "attention")) or part in ("q_proj", "k_proj", "v_proj", "o_proj") for part in parts):
        return "attention"
    return "mlp" if {"gate_proj", "up_proj", "down_proj"} & set(parts) else "other"


def audit(model: nn.Module, train: TrainConfig) -> Audit:
    """Count what is trained; ConfigError where that is not exactly what was asked for, in every layer."""
    base = sum(size(p) for name, p in model.named_parameters() if ".lora_" not in name)
    trained = trained_parameters(model)
    count = sum(size(parameter) for _, parameter in trained)
    expected = _expected(model, train) if train.method == "lora" else {}
    if train.method == "lora":
        _compare(expected, _adapted(model))
    elif count != base:
        raise ConfigError(f"method full: {base - count:,} of {base:,} parameters are not trained")
    families = {name: 0 for name in FAMILIES}
    for name, parameter in trained:
        families[family(name)] += size(parameter)
    if train.method == "lora" and count != sum(expected.values()):
        raise ConfigError(f"{count:,} parameters are trained, the targets have {sum(expected.values()):,}")
    return Audit(base, count, {name: n for name, n in families.items() if n}, tuple(_notes(model, train)))


def size(parameter: nn.Parameter) -> int:
    """Its elements, also where ZeRO-3 has left this rank none of them."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def trained_parameters(model: nn.Module) -> Parameters:
    """Name and parameter of everything that the optimiser moves, in the model's own order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _expected(model: nn.Module, train: TrainConfig) -> dict[str, int]:
    """Target -> parameters that its adapter must have, by arithmetic on the base model's own shapes."""
    lora = train.lora
    assert lora is not None
    targets, rank = find_targets(model, train), expert_rank(model, lora)
    linears = dict(linear_layers(model))
    sizes = {
        name: lora.rank * (linears[name].in_features + linears[name].out_features)
        for name in targets.linears + targets.weights
    }
    shapes = {name: parameter.shape for name, parameter in fused_experts(model)}
    return sizes | {name: shapes[name][0] * rank * (shapes[name][1] + shapes[name][2]) for name in targets.experts}


def _adapted(model: nn.Module) -> dict[str, int]:
    """Target -> trained parameters that its adapter has."""
    found = {}
    for name, layer in causal_model(model).named_modules():
        if isinstance(layer, LoraLayer):
            target = name.replace(".base_layer", "")
            if isinstance(layer, ParamWrapper) and layer.parameter_name != "weight":
                target = f"{target}.{layer.parameter_name}"
            pair = [*layer.lora_A["default"].parameters(), *layer.lora_B["default"].parameters()]
            found[target] = sum(parameter.numel() for parameter in pair if parameter.requires_grad)
    return found


def _compare(expected: dict[str, int], found: dict[str, int]) -> None:
    for name, count in expected.items():
        if found.get(name) != count:
            raise ConfigError(f"{name} needs {count:,} trained parameters, got {found.get(name, 0):,}")
    for name in found.keys() - expected.keys():
        raise ConfigError(f"train.lora.targets: {name} has an adapter that nobody asked for")


def _notes(model: nn.Module, train: TrainConfig) -> Iterator[str]:
    lora = train.lora
    if lora is None:
        return
    targets = find_targets(model, train)
    if lora.expert_rank is not None and not targets.experts:
        yield f"expert_rank {lora.expert_rank} is ignored: no target is a mixture's expert"
    if targets.experts:
        yield f"experts at rank {expert_rank(model, lora)} a pair, the same scale as the linear layers"
    if lora.dropout and (targets.experts or targets.weights):
        where = "the linear layers of attention" if targets.linears else "nothing"
        yield f"dropout {lora.dropout:g} acts on {where} only: adapted expert and mixture MLP weights have none"
