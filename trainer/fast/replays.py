"""A row's way through the decoder, recorded once as two CUDA graphs and replayed.

While a row is short, what it launches takes the host longer than the GPU; a replay is one launch. There is a recording
for each length of a row and (by sixteens) number of items, made when the first such row comes. They share one pool of
memory, since no two rows are under way at once. Backward adds to the adapters' gradients where they lie. A small row is
tried first: replayed and as it is, it must give the same.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import first_line
from trainer.fast.attention import packed_inputs
from trainer.fast.loss import forward_hidden

ITEMS = 16
"""A recording takes any number of items up to a multiple of this; those that are not there are empty."""
MOST = 24
"""Recordings that are kept; the one that was not used for longest makes room."""
TRIED = [100, 28] * 2 + [128] * 2
"""Items of the row that is tried first; none is longer than a row can be short."""


@dataclass(frozen=True)
class Recording:
    """Rows of one length: what goes in, what comes out, and the graphs between."""

    ids: Tensor
    positions: Tensor
    bounds: Tensor
    hidden: Tensor
    """(T, H), what forward writes."""
    given: Tensor
    """(T, H), its gradient, which backward reads."""
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


class Replays:
    """The recordings of one model; until begin() there are none, and rows run as they are."""

    def __init__(self, model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._model, self._autocast = model, autocast
        self._adapters: list[nn.Parameter] = []
        self._longest = 0
        self._recordings: OrderedDict[tuple[int, int], Recording] = OrderedDict()

    def begin(
        self, adapters: list[nn.Parameter], longest: int, device: torch.device, tell: Callable[[str], None]
    ) -> None:
        """From now on rows of training are replayed. Every adapter has its gradient (zeros), which stays where it is;
        no item has more than `longest` tokens, at least 128. Where that cannot be, rows run as they are, and `tell` is
        told why."""
        self._adapters, self._longest, self._tell = adapters, longest, tell
        self._pool = torch.cuda.graph_pool_handle()
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        self._try(device)

    @property
    def on(self) -> bool:
        """Whether rows of training are replayed."""
        return bool(self._adapters)

    def hidden(self, ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        """As forward_hidden(model, ids, inputs). The result is good until the next row's."""
        if not (self.on and torch.is_grad_enabled() and self._model.training):
            return forward_hidden(self._model, ids, inputs)
        bounds = inputs["cu_seq_lens_q"]
        try:
            recording = self._recording(ids.shape[1], -(-(len(bounds) - 1) // ITEMS) * ITEMS)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a kernel of this GPU that asks the host something
            self._end(first_line(error))
            return forward_hidden(self._model, ids, inputs)
        recording.ids.copy_(ids)
        recording.positions.copy_(inputs["position_ids"])
        recording.bounds.fill_(ids.shape[1])
        recording.bounds[: len(bounds)].copy_(bounds)
        out: Tensor = _Replay.apply(self._anchor, recording)
        return out

    def _end(self, why: str) -> None:
        self._adapters = []
        self._recordings.clear()
        self._tell(f"rows are not replayed ({why})")

    def _try(self, device: torch.device) -> None:
        """A small row as it is, then replayed: hidden states and gradients within 2 %, or it ends here."""
        ids, inputs = torch.arange(sum(TRIED), device=device)[None] % 100, packed_inputs(TRIED, device)
        adapters, training = self._adapters, self._model.training
        self._model.train()
        plain = self._results(partial(forward_hidden, self._model), ids, inputs, adapters)
        replayed = self._results(self.hidden, ids, inputs, adapters)
        self._model.train(training)
        size = torch._foreach_norm(plain)
        torch._foreach_sub_(replayed, plain)
        apart = torch._foreach_norm(replayed)
        for name, part in (("hidden states", slice(1)), ("gradients", slice(1, None))):
            if self.on and not torch.stack(apart[part]).norm() <= 0.02 * torch.stack(size[part]).norm():
                self._end(f"their {name} differ")
        self._recordings.clear()  # with its memory, which longer rows could not use
        self._pool = torch.cuda.graph_pool_handle()
        del plain, replayed
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _results(
        self, forward: Callable[..., Tensor], ids: Tensor, inputs: dict[str, Any], adapters: list[nn.Parameter]
    ) -> list[Tensor]:
        """Hidden states and the adapters' gradients, which are zeros again. Nothing of the row's graph stays: what
        adds to a gradient would belong to the stream it was made on, and a recording is another."""
        torch.manual_seed(0)  # for dropout, whose masks are drawn alike
        with self._autocast():
            hidden = forward(ids, inputs)
        hidden.backward(torch.sin(torch.arange(hidden.numel(), device=ids.device)).view_as(hidden).to(hidden.dtype))
        found = [hidden.detach().float(), *(adapter.grad.clone() for adapter in adapters)]
        torch._foreach_zero_([adapter.grad for adapter in adapters])
        return found

    def _recording(self, tokens: int, items: int) -> Recording:
        key = tokens, items
        if key not in self._recordings:
            if len(self._recordings) == MOST:
                self._recordings.popitem(last=False)
            self._recordings[key] = self._record(tokens, items)
        self._recordings.move_to_end(key)
        return self._recordings[key]

    def _record(self, tokens: int, items: int) -> Recording:
        device = self._anchor.device
        ids = torch.zeros(1, tokens, dtype=torch.long, device=device)
        positions = torch.arange(tokens, device=device)[None] % self._longest
        bounds = torch.full((items + 1,), tokens, dtype=torch.int32, device=device)
        inputs = {"position_ids": positions, "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        longest = {"max_length_q": self._longest, "max_length_k": self._longest}
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with self._autocast(), _recorded(forward, self._pool):
            hidden = forward_hidden(self._model, ids, {**inputs, **longest})
        given = torch.empty_like(hidden)
        with _recorded(backward, self._pool):
            grads = torch.autograd.grad(hidden, self._adapters, given)
            torch._foreach_add_([adapter.grad for adapter in self._adapters], list(grads))
        return Recording(ids, positions, bounds, hidden.detach(), given, forward, backward)


def _recorded(graph: torch.cuda.CUDAGraph, pool: Any) -> AbstractContextManager[None]:
    # Other threads (the collectives' watchdog) go on asking CUDA what a recording thread may not.
    return torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")


class _Replay(torch.autograd.Function):
    """Forward of a recording, and backward when its turn comes; `anchor` makes autograd call it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, recording: Recording) -> Tensor:
        ctx.recording = recording
        recording.forward.replay()
        return recording.hidden.detach()

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[None, None]:  # type: ignore[override]
        ctx.recording.given.copy_(given)
        ctx.recording.backward.replay()
        return None, None
