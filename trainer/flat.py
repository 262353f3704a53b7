"""The adapters' many small tensors as pieces of a few long ones, which are all that DeepSpeed's engine sees of them.

The engine works on the host for each of its parameters, at every row and every step; a mixture's adapters are hundreds.
Values and gradients of a piece are views: what backward adds to an adapter's gradient is in the long one's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.schema.memory_plan import BUCKET

LONGEST = BUCKET // 2
"""Elements of a long tensor. The engine reduces twice as many at once."""


@dataclass(frozen=True)
class Flat:
    """One of the engine's parameters (n,), fp32."""

    parameter: nn.Parameter
    gradient: Tensor
    """(n,), always in one place."""
    pieces: tuple[tuple[str, nn.Parameter, int], ...]
    """Name, adapter tensor and where it begins."""

    def tie(self) -> None:
        """Make the adapters' values and gradients views of this one's: again when the engine has moved the values."""
        for adapter, value in self._views(self.parameter.data):
            adapter.data = value
        for adapter, value in self._views(self.gradient):
            adapter.grad = value

    def clear_gradient(self) -> None:
        """Zeros. The engine may put what it likes in place of the tensor that it finds as the parameter's gradient."""
        self.parameter.grad = self.gradient.zero_().detach()

    def _views(self, whole: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for _, adapter, begin in self.pieces:
            yield adapter, whole[begin : begin + adapter.numel()].view_as(adapter)


def flatten(groups: list[dict[str, Any]], names: dict[nn.Parameter, str]) -> tuple[list[dict[str, Any]], list[Flat]]:
    """AdamW's groups with long tensors in place of the adapters, which are views of them from now on; the long ones."""
    flats: list[Flat] = []
    changed = []
    for group in groups:
        made = [_joined([(names[parameter], parameter) for parameter in part]) for part in _parts(group["params"])]
        changed.append({**group, "params": [flat.parameter for flat in made]})
        flats += made
    return changed, flats


def _parts(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """In order, each of at most LONGEST elements or a single parameter."""
    part: list[nn.Parameter] = []
    for parameter in parameters:
        if part and sum(one.numel() for one in part) + parameter.numel() > LONGEST:
            yield part
            part = []
        part.append(parameter)
    if part:
        yield part


def _joined(named: list[tuple[str, nn.Parameter]]) -> Flat:
    begins = torch.tensor([0, *(parameter.numel() for _, parameter in named)]).cumsum(0).tolist()
    whole = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for _, parameter in named]))
    pieces = tuple((*one, begin) for one, begin in zip(named, begins, strict=False))
    flat = Flat(whole, torch.zeros_like(whole, requires_grad=False), pieces)
    flat.tie()
    return flat
