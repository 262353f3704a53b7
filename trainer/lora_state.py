"""State of a LoRA run: fp32 masters and both moments, in slices that any number of ranks loads without conversion.

Each rank writes the slices that its optimiser owns, keyed `<parameter>:<offset>:<part>`, to one safetensors file. It
holds a copy made in host memory: masters and moments change in the optimiser's step alone, which waits for the copy.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.atomic import named_errors
from trainer.checkpoints import Checkpoint, Named
from trainer.errors import CheckpointError, RunsFolderError
from trainer.flat import Flat

PARTS = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """What this rank's optimiser owns of a long tensor: from `first` on, (n,) fp32 by part."""

    flat: Flat
    first: int
    values: dict[str, Tensor]

    def slices(self) -> Iterator[tuple[str, int, str, Tensor]]:
        """(parameter's name, offset in it, part, slice)."""
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

    def begin(self) -> None:
        """Start copying: on a GPU in a stream beside the others, else in a thread."""
        live = owned(self._engine)
        sources = [value for fragment in live for value in fragment.values.values()]
        if [one.shape for one in sources] != [one.shape for one in self._memory]:
            self._memory = [torch.empty(one.shape, dtype=one.dtype, pin_memory=one.is_cuda) for one in sources]
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

    def write(self, path: Path, about: dict[str, str]) -> None:
        """The copy as safetensors at `path`, with `about` in its header. RunsFolderError if it cannot be written."""
        self.wait()
        tensors = {f"{name}:{start}:{part}": value for one in self._copies for name, start, part, value in one.slices()}
        try:
            with named_errors(path):
                save_file(tensors, str(path), metadata=about)
        except SafetensorError as error:
            raise RunsFolderError(f"{path}: {error}: make room there and submit again") from None


def load_slices(parameters: Named, engine: Any, checkpoint: Checkpoint, run: str) -> None:
    """Parameters, masters and moments of a verified checkpoint that any number of ranks wrote.

    CheckpointError where a parameter is not wholly covered: the checkpoint is of another model.
    """
    path = checkpoint.path
    create_moments(engine, torch.tensor(float(checkpoint.progress.updates)))
    by_name = dict(parameters)
    covered = dict.fromkeys(by_name, 0)
    own = {(name, part): (start, value) for one in owned(engine) for name, start, part, value in one.slices()}
    for name, start, part, value in _stored(checkpoint, run):
        if name not in by_name:
            raise CheckpointError(f"{path}: holds {name}, which this model does not train; remove {path}")
        if part == "master":
            covered[name] += value.numel()
            by_name[name].data.view(-1)[start : start + value.numel()].copy_(value)
        if (name, part) in own:
            _copy_overlap(*own[name, part], start, value)
    short = [name for name, count in covered.items() if count != by_name[name].numel()]
    if short:
        raise CheckpointError(f"{path}: {short[0]} is incomplete (and {len(short) - 1} more); remove {path}")


def create_moments(engine: Any, step: Tensor) -> None:
    """What AdamW makes at its first step, zeros after `step` updates: a resumed run needs it before."""
    for flat in engine.optimizer.single_partition_of_fp32_groups:
        engine.optimizer.optimizer.state[flat] = {
            "step": step.to(flat.device).clone() if flat.is_cuda else step.clone(),
            "exp_avg": torch.zeros_like(flat.data),
            "exp_avg_sq": torch.zeros_like(flat.data),
        }


def _stored(checkpoint: Checkpoint, run: str) -> Iterator[tuple[str, int, str, Tensor]]:
    step = str(checkpoint.progress.step)
    for name in sorted(checkpoint.files):
        file = checkpoint.path / name
        try:
            with safe_open(str(file), framework="pt") as tensors:
                about = tensors.metadata() or {}
                if (about.get("run"), about.get("step")) != (run, step):
                    raise ValueError(f"is of step {about.get('step')} of {about.get('run')}")
                for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    parameter, start, part = key.rsplit(":", 2)
                    yield parameter, int(start), part, tensors.get_tensor(key)
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error}); remove {checkpoint.path}") from None


def _copy_overlap(start: int, target: Tensor, other: int, source: Tensor) -> None:
    low, high = max(start, other), min(start + target.numel(), other + source.numel())
    if low < high:
        target.data[low - start : high - start].copy_(source[low - other : high - other])
