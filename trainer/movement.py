"""Whether what is trained moves: adapter tensors, and each expert's part of them, after the first steps of an attempt.

An adapter that gets no gradient is noticed by nothing else: the loss falls without it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn

from trainer.audit import trained_parameters
from trainer.batches import Batch, build_batches, plan_step
from trainer.fast.layers import uncompiled
from trainer.fast.loss import forward_hidden
from trainer.run import Run, autocast

AFTER = 20
"""Updates with a rate above zero between the two looks."""
REMEDY = "it is not trained; with ops.kernels: reference it may be"


@dataclass(frozen=True)
class Part:
    """A trained tensor, or one expert's part of a mixture's B: that of an expert without tokens gets no gradient,
    while weight decay moves its A."""

    name: str
    layer: str
    """Name of the layer of experts; empty for what is no expert's."""
    expert: int = 0


class Movement:
    """Two looks at a LoRA run's adapters on the first rank, which like every rank holds the fp32 masters of all."""

    def __init__(self, run: Run) -> None:
        self._before = fingerprints(run.model) if not run.full and run.ranks.first else {}
        self._updates = 0

    def lines(self, run: Run, step: int) -> list[str]:
        """What is to be said after update number `step` (from 0), which had a rate above zero."""
        self._updates += 1
        if self._updates != AFTER or not self._before:
            return []
        still, self._before = unmoved(self._before, fingerprints(run.model)), {}
        if not any(part.layer for part in still):
            return sentences(still, {})
        rows = plan_step(step, run.data.train, run.train, run.packing).rows
        with autocast(run.train, run.ranks.device):
            batches = build_batches(run.data.train, rows, run.ranks.rank, run.packing, run.ranks.device)
            return sentences(still, tokens_by_expert(run.model, batches))


def parts(model: nn.Module) -> Iterator[tuple[list[Part], Tensor]]:
    """Every trained tensor as (its parts, values (parts, n)); of experts the B alone."""
    experts = dict(expert_adapters(model))
    for name, parameter in trained_parameters(model):
        if parameter not in experts:
            yield [Part(name, "")], parameter.data.view(1, -1)
        elif ".lora_B." in name:
            layer, count = experts[parameter]
            # As PEFT stores it, (out, rank x experts), the experts are innermost.
            yield [Part(name, layer, expert) for expert in range(count)], parameter.data.view(-1, count).T


def expert_adapters(model: nn.Module) -> Iterator[tuple[nn.Parameter, tuple[str, int]]]:
    """Adapter tensors of fused experts -> (name of their layer, number of experts)."""
    for name, module in model.named_modules():
        if isinstance(module, ParamWrapper) and module.get_param().ndim == 3:
            layer = name.replace(".base_layer", "")
            for parameter in (module.lora_A["default"].weight, module.lora_B["default"].weight):
                yield parameter, (layer, module.get_param().shape[0])


def fingerprints(model: nn.Module) -> dict[Part, tuple[float, ...]]:
    """Two sums of each part's values, fp64: equal where nothing moved. One copy to the host."""
    known, sums = [], []
    for own, values in parts(model):
        known += own
        wide = values.double()
        sums.append(torch.stack([wide.sum(1), wide.square().sum(1)], 1))
    return dict(zip(known, map(tuple, torch.cat(sums).tolist()), strict=True)) if sums else {}


def tokens_by_expert(model: Any, batches: Iterable[Batch]) -> dict[str, set[int]]:
    """Layer of experts -> those that get a token of these rows from which a label is predicted.

    The gradient of any other may be nothing: of padding, or in the last layer. Layers whose experts are not called with
    (hidden, index, weights) are not in it.
    """
    layers = {layer: module for layer, module in _expert_layers(model)}
    found: dict[str, set[int]] = {layer: set() for layer in layers}

    def look(layer: str, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        index = arguments[1] if len(arguments) > 1 else None
        if index is None or index.is_floating_point() or index.ndim != 2:
            found.pop(layer, None)
        elif layer in found:
            found[layer] |= set(index[positions].unique().tolist())

    hooks = [module.register_forward_pre_hook(partial(look, layer)) for layer, module in layers.items()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), uncompiled(model):
            for batch in batches:
                positions = batch.positions
                forward_hidden(model, batch.input_ids, batch.model_inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _expert_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, ParamWrapper) and module.get_param().ndim == 3 and not name.endswith(".base_layer"):
            yield name, module


def unmoved(before: dict[Part, tuple[float, ...]], after: dict[Part, tuple[float, ...]]) -> list[Part]:
    """The parts whose values are what they were."""
    return [part for part in before if before[part] == after[part]]


def sentences(still: list[Part], routed: dict[str, set[int]]) -> list[str]:
    """What is to be said of parts that did not move. `routed`: which experts got tokens in one step."""
    lines = []
    broken = [part.name for part in still if not part.layer]
    if broken:
        lines.append(f"{_tensors(broken)} not moved in {AFTER} updates: {REMEDY}")
    idle = [part for part in still if part.layer in routed]
    starved = sorted({(part.layer, part.expert) for part in idle if part.expert not in routed[part.layer]})
    stuck = [f"{part.name}, expert {part.expert}" for part in idle if part.expert in routed[part.layer]]
    if stuck:
        lines.append(f"{_tensors(stuck)} not moved in {AFTER} updates, though the expert gets tokens: {REMEDY}")
    if starved:
        layers = {layer: [expert for name, expert in starved if name == layer] for layer, _ in starved}
        shown = "; ".join(f"{layer}: {', '.join(map(str, experts[:8]))}" for layer, experts in list(layers.items())[:4])
        lines.append(f"{len(starved)} experts got no token to learn from in {AFTER} updates, as it seems ({shown})")
    return lines


def _tensors(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{'; '.join(names[:3])}{rest} {'has' if len(names) == 1 else 'have'}"
