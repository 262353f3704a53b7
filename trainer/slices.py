"""Slices of trained parameters in safetensors files, which any number of ranks loads without conversion.

Keys are `<parameter>:<offset>:<part>`, values fp32 (n,): from that offset of the flattened parameter on.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.atomic import named_errors, sync_file
from trainer.checkpoints import Checkpoint, Named, signature
from trainer.errors import CheckpointError, RunsFolderError

PARTS = ("master", "exp_avg", "exp_avg_sq")

Slice = tuple[str, int, str, Tensor]
"""(parameter's name, offset in it, part, values)."""


@dataclass(frozen=True)
class Stored:
    """A slice of a checkpoint, which is read when it is asked for."""

    name: str
    start: int
    part: str
    count: int
    read: Callable[[], Tensor]


def keyed(slices: Iterable[Slice]) -> Iterator[tuple[str, Tensor]]:
    """As they are called in files."""
    for name, start, part, value in slices:
        yield f"{name}:{start}:{part}", value


def write_slices(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> dict[str, Any]:
    """One file on the volume, with `about` in its header; its signature. RunsFolderError if it cannot be written."""
    try:
        with named_errors(path):
            save_file(tensors, str(path), metadata=about)
            sync_file(path)
            return signature(path)
    except SafetensorError as error:
        raise RunsFolderError(f"{path}: {error}: make room there and submit again") from None


def stored_slices(parameters: Named, checkpoint: Checkpoint, run: str) -> Iterator[Stored]:
    """All slices of a verified checkpoint. CheckpointError where they are of another model or step, or some lack."""
    covered = dict.fromkeys(dict(parameters), 0)
    for one in _read(checkpoint, run):
        if one.name not in covered:
            raise CheckpointError(
                f"{checkpoint.path}: holds {one.name}, which this model does not train; remove {checkpoint.path}"
            )
        covered[one.name] += one.count if one.part == "master" else 0
        yield one
    # ZeRO-3's parameters are empty between their uses.
    sizes = {name: getattr(parameter, "ds_numel", parameter.numel()) for name, parameter in parameters}
    short = [name for name, count in covered.items() if count != sizes[name]]
    if short:
        raise CheckpointError(
            f"{checkpoint.path}: {short[0]} is incomplete (and {len(short) - 1} more); remove {checkpoint.path}"
        )


def copy_overlap(start: int, target: Tensor, stored: Stored) -> bool:
    """What `stored` holds of `target`, which begins at `start` of the same parameter; whether there was any."""
    low, high = max(start, stored.start), min(start + target.numel(), stored.start + stored.count)
    if low >= high:
        return False
    target.data[low - start : high - start].copy_(stored.read()[low - stored.start : high - stored.start])
    return True


def _read(checkpoint: Checkpoint, run: str) -> Iterator[Stored]:
    step = str(checkpoint.progress.step)
    for file_name in sorted(checkpoint.files):
        file = checkpoint.path / file_name
        try:
            with safe_open(str(file), framework="pt") as tensors:
                about = tensors.metadata() or {}
                if (about.get("run"), about.get("step")) != (run, step):
                    raise ValueError(f"is of step {about.get('step')} of {about.get('run')}")
                for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    name, start, part = key.rsplit(":", 2)
                    (count,) = tensors.get_slice(key).get_shape()
                    yield Stored(name, int(start), part, count, lambda key=key: tensors.get_tensor(key))
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error}); remove {checkpoint.path}") from None
