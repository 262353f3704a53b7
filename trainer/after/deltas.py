"""What an adapter adds to each tensor of the base model's files: scale x B A, laid out as the files are.

PEFT says on a model without storage which pair adapts which parameter at which scale; transformers' own conversion,
reversed, says where that parameter lies in the files: a mixture's fused experts are one tensor an expert there.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from trainer.adapters import WEIGHTS
from trainer.errors import CheckpointError, ConfigError, first_line
from trainer.model import read_config

_KEPT = 4
"""Pairs that are kept in memory: files name the fused tensors of a layer's experts in turns."""


@dataclass(frozen=True)
class Pair:
    """One adapted parameter of the base model: keys of A and B in the adapter's file, and how they are multiplied."""

    parameter: str
    a: str
    b: str
    scaling: float
    experts: int
    """1: A (r, in), B (out, r). More: A (experts r, in) expert-major, B (out, r experts) rank-major."""
    inputs_last: bool
    """The parameter is (experts, out, in) or (out, in), not (experts, in, out)."""


def empty_model(folder: Path) -> PreTrainedModel:
    """The base model without storage. ConfigError for what cannot be trained, quantised weights among it."""
    config = read_config(folder)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def pairs_of(model: PreTrainedModel, adapter: Path) -> list[Pair]:
    """Every pair of the adapter, whose file must hold them all, in their shapes, and nothing else. CheckpointError."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    where = adapter / "adapter_config.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of patterns that name parameters: the shapes below show that they applied
        try:
            config = LoraConfig.from_pretrained(str(adapter))
            with torch.device("meta"):
                wrapped = get_peft_model(model, config)
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            raise CheckpointError(f"{where}: no adapter of this base model: {first_line(error)}") from None
    wanted = {
        name.replace(".default.", "."): tuple(parameter.shape)
        for name, parameter in wrapped.named_parameters()
        if parameter not in names
    }
    _compare(wanted, adapter / WEIGHTS)
    return [_pair(name, layer, names) for name, layer in wrapped.named_modules() if isinstance(layer, LoraLayer)]


def _pair(name: str, layer: Any, names: Mapping[Any, str]) -> Pair:
    expert = isinstance(layer, ParamWrapper)
    parameter = layer.get_param() if expert else layer.get_base_layer().weight
    return Pair(
        parameter=names[parameter],
        a=f"{name}.lora_A.weight",
        b=f"{name}.lora_B.weight",
        scaling=layer.scaling["default"],
        experts=layer.num_experts if expert else 1,
        inputs_last=parameter.ndim == 2 or layer._did_swap_in_out_features,
    )


def _compare(wanted: Mapping[str, tuple[int, ...]], path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: no safetensors ({first_line(error)}): pull or train the adapter again"
        ) from None
    odd = sorted(set(wanted) ^ set(given))
    if odd:
        what = "is missing" if odd[0] in wanted else "is nothing that adapter_config.json names"
        raise CheckpointError(f"{path}: {odd[0]} {what} ({len(odd)} such): this is not the adapter of that config")
    for name, shape in wanted.items():
        if given[name] != shape:
            raise CheckpointError(
                f"{path}: {name} is {list(given[name])}, its config and base model want {list(shape)}"
            )


def by_expert(pair: Pair, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(B (experts, out, r), A (experts, r, in)): expert e's update is scaling x B[e] A[e]. fp32."""
    left = b.float().view(b.shape[0], -1, pair.experts).permute(2, 0, 1)
    return left, a.float().view(pair.experts, -1, a.shape[-1])


def in_files(model: PreTrainedModel, parameter: str, value: Tensor) -> dict[str, Tensor]:
    """A value for the parameter, cut and named as the base model's files have it."""
    found: dict[str, Tensor] = revert_weight_conversion(model, {parameter: value})
    return found


@dataclass(frozen=True)
class Deltas:
    """names: the tensors of the files that the adapter changes; of(name) -> what is added, fp32; None for others."""

    names: frozenset[str]
    of: Callable[[str], Tensor | None]


def open_deltas(stack: ExitStack, base: Path, adapter: Path, shapes: Mapping[str, tuple[int, ...]]) -> Deltas:
    """The adapter's deltas, made one by one when they are asked for, while `stack` is open.

    shapes: of all tensors of the base's files. CheckpointError for an adapter that does not fit, ConfigError for a
    base whose files are arranged in a way that is not known here.
    """
    model = empty_model(base)
    parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    pairs = pairs_of(empty_model(base), adapter)
    file = stack.enter_context(safe_open(adapter / WEIGHTS, framework="pt"))
    homes: dict[str, tuple[Pair, int | None]] = {}
    for pair in pairs:
        if shapes.get(pair.parameter) == parameters[pair.parameter]:
            homes[pair.parameter] = pair, None
        else:
            homes |= {
                name: (pair, expert) for name, expert in _cut(model, pair, parameters[pair.parameter], shapes, base)
            }

    def factors(pair: Pair) -> tuple[Tensor, Tensor]:
        a, b = file.get_tensor(pair.a), file.get_tensor(pair.b)
        if not (a.isfinite().all() and b.isfinite().all()):
            raise CheckpointError(f"{adapter}: {pair.a} or its B holds values that are no numbers: the run diverged")
        return by_expert(pair, a, b)

    @lru_cache(maxsize=_KEPT)
    def cut_factors(pair: Pair) -> tuple[dict[str, Tensor], Tensor]:
        left, right = factors(pair)
        return in_files(model, pair.parameter, left if pair.experts > 1 else left[0]), right

    def of(name: str) -> Tensor | None:
        if name not in homes:
            return None
        pair, expert = homes[name]
        if expert is None:
            return _whole(pair, *factors(pair)).view(shapes[name])
        left, right = cut_factors(pair)
        return (left[name] @ right[expert]).mul_(pair.scaling)

    return Deltas(frozenset(homes), of)


def _whole(pair: Pair, left: Tensor, right: Tensor) -> Tensor:
    product = (left @ right).mul_(pair.scaling)
    return product if pair.inputs_last else product.mT.contiguous()


def cut_rows(model: PreTrainedModel, pair: Pair, shape: tuple[int, ...]) -> dict[str, tuple[int, int]] | None:
    """Tensor of the files -> (expert, rows) of it that it is; None where it is something else than rows of experts.

    The conversion is tried on a probe that says in each row which expert it is of: B can be cut as the parameter is
    only where rows stay rows.
    """
    probe = torch.full((*shape[:-1], 2), -1.0)
    probe[..., 0] = torch.arange(pair.experts)[:, None] if pair.experts > 1 else 0
    found = {}
    for name, part in in_files(model, pair.parameter, probe).items():
        plain = pair.inputs_last and part.ndim == 2 and part.shape[1] == 2 and part[:, 1].eq(-1).all()
        if not plain or part[:, 0].ne(part[0, 0]).any():
            return None
        found[name] = int(part[0, 0]), part.shape[0]
    return found


def _cut(
    model: PreTrainedModel, pair: Pair, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], base: Path
) -> Iterator[tuple[str, int]]:
    """(tensor of the files, expert) of the pair's parameter."""
    rows = cut_rows(model, pair, shape)
    if rows is None:
        raise ConfigError(f"{base}: the files hold {pair.parameter} arranged in a way that is not known here")
    for name, (expert, count) in rows.items():
        if shapes.get(name) != (count, shape[-1]):
            raise ConfigError(
                f"{base}: of {pair.parameter} the files hold no {name} of {count} rows of {shape[-1]} values: "
                "save the base model again with transformers' save_pretrained"
            )
        yield name, expert
