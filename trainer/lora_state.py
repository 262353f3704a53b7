"""State of a LoRA run: the fp32 masters and both moments that each rank's optimiser owns under ZeRO-2.

A rank's file holds a copy made in host memory: they change in the optimiser's step alone, which waits for the copy.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoints import Checkpoint, Named
from trainer.engine import create_moments
from trainer.flat import Flat
from trainer.slices import PARTS, Slice, copy_overlap, stored_slices


@dataclass(frozen=True)
class Fragment:
    """What this rank's optimiser owns of a long tensor: from `first` on, (n,) fp32 by part."""

    flat: Flat
    first: int
    values: dict[str, Tensor]

    def slices(self) -> Iterator[Slice]:
        end = self.first + self.values["master"].numel()
        for name, parameter, begin in self.flat.pieces:
            low, high = max(self.first, begin), min(end, begin + parameter.numel())
            if low < high:
                for part, value in self.values.items():
                    yield name, low - begin, part, value[low - self.first : high - self.first]


def owned(engine: Any) -> list[Fragment]:
    """All that this rank's optimiser owns, as it is now."""
    state, groups = engine.optimizer.optimizer.state, engine.optimizer.single_partition_of_fp32_groups
    found = []
    for flat in engine.module.flats:
        mapping = flat.parameter._hp_mapping
        if mapping is None:
            continue
        address = mapping.hp_fragment_address
        values = {"master": mapping.hp_fragment.detach()}
        moments = state.get(groups[mapping.param_group_index], {})
        values |= {part: moments[part].narrow(0, address.start, address.numel) for part in PARTS[1:] if part in moments}
        found.append(Fragment(flat, mapping.lp_fragment_address.start, values))
    return found


class Snapshot:
    """A copy of what this rank owns, in the same host memory each time: 12 bytes a trained parameter over all ranks."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._memory: list[Tensor] = []
        self._copies: list[Fragment] = []
        self._wait: Callable[[], None] = lambda: None
        masters = [fragment.values["master"] for fragment in owned(engine)] if engine.module.flats else []
        likes = [master for master in masters for _ in PARTS]
        # The system takes a second for each gigabyte of it: as long as the model compiles, nobody waits for that.
        self.reserving = threading.Thread(target=self._reserve, args=(likes,), name="snapshot", daemon=True)
        self.reserving.start()

    def _reserve(self, likes: list[Tensor]) -> None:
        if likes and likes[0].is_cuda:  # a new thread's is the first GPU, another rank's
            torch.cuda.set_device(likes[0].device)
        memory = [torch.empty(one.shape, dtype=one.dtype, pin_memory=one.is_cuda) for one in likes]
        for one in memory:
            one.zero_()  # else a page would be there at its first use
        self._memory = memory

    def begin(self) -> None:
        """Start copying: on a GPU in a stream beside the others, else in a thread."""
        self.reserving.join()
        live = owned(self._engine)
        sources = [value for fragment in live for value in fragment.values.values()]
        if [one.shape for one in sources] != [one.shape for one in self._memory]:  # no moments before the first update
            self._reserve(sources)
        memory = iter(self._memory)
        self._copies = [replace(one, values={part: next(memory) for part in one.values}) for one in live]
        if sources and sources[0].is_cuda:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._copy(sources)
            self._wait = side.record_event().synchronize
        else:
            thread = threading.Thread(target=self._copy, args=(sources,), name="snapshot", daemon=True)
            thread.start()
            self._wait = thread.join

    def _copy(self, sources: list[Tensor]) -> None:
        for copy, source in zip(self._memory, sources, strict=True):
            copy.copy_(source, non_blocking=True)

    def wait(self) -> None:
        """Return once everything is copied; any thread may ask."""
        self._wait()

    def slices(self) -> list[Slice]:
        """The copy, once it is made."""
        self.wait()
        return [one for fragment in self._copies for one in fragment.slices()]


def load_slices(parameters: Named, engine: Any, checkpoint: Checkpoint, run: str) -> None:
    """Parameters, masters and moments of a verified checkpoint that any number of ranks wrote. CheckpointError."""
    zero = engine.optimizer
    create_moments(zero.optimizer, zero.single_partition_of_fp32_groups, checkpoint.progress.updates)
    by_name = dict(parameters)
    own = {(name, part): (start, value) for one in owned(engine) for name, start, part, value in one.slices()}
    for stored in stored_slices(parameters, checkpoint, run):
        if stored.part == "master":
            copy_overlap(0, by_name[stored.name].data.view(-1), stored)
        if (stored.name, stored.part) in own:
            copy_overlap(*own[stored.name, stored.part], stored)
