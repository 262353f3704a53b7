"""Who runs a mixture's experts: which layers ours fits, and how it takes the place of transformers' and PEFT's ways.

What PEFT does with an adapted expert weight (add B A to the whole stack of experts at every forward) is the reference;
here the adapters' products run beside the frozen ones, see expert_layer.py.
"""

from collections.abc import Callable
from typing import Any

from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _default_apply_gate

from trainer.fast.expert_layer import experts
from trainer.fast.expert_products import usable
from trainer.fast.loss import causal_model

NAME = "kctl"
"""What config._experts_implementation says where ours is in use."""
ALIGNED = 8
"""Grouped products want rows of 16 bytes, so sizes that are multiples of this."""


def use_our_experts(model: PreTrainedModel) -> None:
    """Switch the model to ours where every layer of experts fits."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, _plain_forward)
    layers = expert_layers(model)
    if layers and not any(map(unfit, layers)) and model._can_set_experts_implementation():
        model.set_experts_implementation(NAME)


def says(model: nn.Module) -> str:
    """For the log: how the model's experts run; empty where it has none."""
    layers = expert_layers(model)
    if not layers:
        return ""
    name = causal_model(model).config.get_text_config()._experts_implementation
    if name == NAME:
        device = next(layers[0].parameters()).device
        return f"experts by {'quack' if device.type == 'cuda' and usable(device) else 'torch'}"
    why = next(filter(None, map(unfit, layers)), "")
    return f"experts by transformers' {name}" + (f" ({why})" if why else "")


def expert_layers(model: nn.Module) -> list[nn.Module]:
    """The modules that hold one matrix per expert."""
    return [module for module in model.modules() if _ndim(module, "down_proj") == 3]


def _ndim(module: nn.Module, name: str) -> int:
    parameter = module._parameters.get(name)
    return 0 if parameter is None else len(getattr(parameter, "ds_shape", parameter.shape))


def unfit(experts: nn.Module) -> str:
    """Why these experts keep transformers' own forward; empty where ours computes the same."""
    shape = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
    for name, value in {**shape, "has_post_expert_norm": False, "_is_expert_parallel": False}.items():
        # An older transformers (5.17) does not have the last three, and then nothing of the kind.
        found = getattr(experts, name, value if name not in ("has_gate", "has_bias", "is_transposed") else None)
        if found is not value:
            return f"{name} is {found}"
    if type(experts)._apply_gate is not _default_apply_gate:
        return "a gate of its own"
    if type(getattr(experts, "act_fn", None)).__name__ not in ("SiLU", "SiLUActivation"):
        return f"activation {type(getattr(experts, 'act_fn', None)).__name__}"
    down = experts.down_proj
    if any(size % ALIGNED for size in getattr(down, "ds_shape", down.shape)[1:]):
        return f"sizes that are no multiples of {ALIGNED}"
    return ""


def adapt_our_experts(model: nn.Module) -> None:
    """Where experts run as ours and have adapters, run these beside them in place of PEFT's way: B A added to every
    expert's whole weight."""
    if causal_model(model).config.get_text_config()._experts_implementation != NAME:
        return
    wrappers = [module for module in model.modules() if isinstance(module, ParamWrapper)]
    inner = {module.base_layer for module in wrappers}
    for module in wrappers:
        base = module.get_base_layer()
        if module not in inner and _ndim(base, "down_proj") == 3:
            module.forward = _adapted(module, module.forward)
        elif isinstance(base, nn.Linear) and module.base_layer is base:
            module.forward = _adapted_linear(module, module.forward)


def _adapted(outer: ParamWrapper, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """forward of the outermost of nested wrappers around one layer of experts."""
    wrappers: list[ParamWrapper] = []
    layer: nn.Module = outer
    while isinstance(layer, ParamWrapper):
        wrappers.append(layer)
        layer = layer.base_layer
    weight: Any = layer
    by_name = {one.parameter_name: one for one in wrappers}
    pair = [by_name.get(name) for name in ("gate_up_proj", "down_proj")]

    def forward(hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        if any(one.disable_adapters or one.merged or one.active_adapters != ["default"] for one in wrappers):
            return plain(hidden, index, weights)
        factors: list[Tensor | None] = []
        for one in pair:
            stored = (None, None) if one is None else (one.lora_A["default"].weight, one.lora_B["default"].weight)
            factors += [None if factor is None else factor.to(hidden.dtype) for factor in stored]
        scales = tuple(0.0 if one is None else float(one.scaling["default"]) for one in pair)
        return experts(hidden, index, weights, weight.gate_up_proj, weight.down_proj, tuple(factors), scales)

    return forward


def _adapted_linear(wrapper: ParamWrapper, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """forward of a linear layer that PEFT was told to adapt by its parameter: B (A x) beside W x, as for any other."""

    def forward(hidden: Tensor) -> Tensor:
        if wrapper.disable_adapters or wrapper.merged or wrapper.active_adapters != ["default"]:
            return plain(hidden)
        a, b = wrapper.lora_A["default"], wrapper.lora_B["default"]
        out: Tensor = wrapper.base_layer(hidden) + b(a(hidden.to(a.weight.dtype))) * wrapper.scaling["default"]
        return out.to(hidden.dtype)

    return forward


def _plain_forward(self: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    return experts(hidden, index, weights, self.gate_up_proj, self.down_proj)
