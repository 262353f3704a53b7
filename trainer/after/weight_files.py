"""Safetensors files read and written as streams, one tensor in memory at a time.

A copy keeps the header byte for byte, so names, types, order and shards stay those of the original.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from trainer.errors import ConfigError

INDEX = "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""What an adapter can be added to."""
_CHUNK = 8 << 20

Change = Callable[[str], Tensor | None]
"""Name of a tensor -> what is added to it, in its shape; None: it stays as it is."""


@dataclass(frozen=True)
class Place:
    """Where one tensor lies in its file: bytes [begin, end)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load, in order; trainer.model.check_weights has looked at them."""
    index = folder / INDEX
    if not index.is_file():
        return [folder / "model.safetensors"]
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(names))]


def places(path: Path) -> list[Place]:
    """Every tensor of a file, in the order of its bytes. ConfigError where there is no such file."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: copy the model again") from None
    found = [
        Place(name, entry["dtype"], tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"]))
        for name, entry in header.items()
        if name != "__metadata__"
    ]
    return sorted(found, key=lambda place: (place.begin, place.end))


def copy_changed(source: Path, target: Path, change: Change) -> None:
    """`source` with its changes as `target`, on disk when this returns. OSError as the file system has it."""
    beside = target.with_name(f".{target.name}.tmp")
    with source.open("rb") as old, beside.open("wb") as new:
        for place in places(source):
            delta = change(place.name)
            if delta is None:
                continue
            _copy(old, new, place.begin - old.tell())
            new.write(_changed(old.read(place.end - place.begin), place, delta))
            del delta
        _copy(old, new, source.stat().st_size - old.tell())
        new.flush()
        os.fsync(new.fileno())
    beside.rename(target)


def _changed(data: bytes, place: Place, delta: Tensor) -> memoryview:
    """The sum, rounded once to the weight's own type."""
    weight = torch.frombuffer(bytearray(data), dtype=DTYPES[place.dtype]).view(place.shape)
    summed = weight.to(torch.promote_types(weight.dtype, delta.dtype)).add_(delta)
    return memoryview(summed.to(weight.dtype).contiguous().view(-1).view(torch.uint8).numpy())


def _copy(old: IO[bytes], new: IO[bytes], size: int) -> None:
    for chunk in _chunks(old, size):
        new.write(chunk)


def _chunks(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while size:
        chunk = stream.read(min(size, _CHUNK))
        if not chunk:
            raise ConfigError(f"{stream.name}: ends {size} bytes early: copy the model again")
        size -= len(chunk)
        yield chunk
