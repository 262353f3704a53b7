"""A trained model as a folder that transformers and servers load: the base's own files with new weights.

The weights arrive one by one and go into files as soon as one is full, so that memory holds a layer and a file, never
the model. transformers' conversion, reversed, names and cuts them as the base has them (a tensor an expert).
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from trainer.after.weight_files import INDEX
from trainer.atomic import read_object, write_json

FILE_BYTES = 4_000_000_000
"""A weight file's size at most, unless one tensor is larger."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What belongs to a tokenizer, where a model folder has it."""
_LAYER = re.compile(r".*?\.\d+\.")


def write_model(model: PreTrainedModel, values: Iterable[tuple[str, Tensor]], folder: Path, base: Path) -> None:
    """Fill `folder`: weights, config and tokenizer. `values`: by the model's own names, a layer's one after the other.

    OSError and SafetensorError as the file system has it.
    """
    config = read_object(base / "config.json")
    config.pop("torch_dtype", None)
    write_json(folder / "config.json", {**config, "dtype": str(model.dtype).removeprefix("torch.")})
    for name in ("generation_config.json", *TOKENIZER_FILES):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    parts: list[Path] = []
    homes: list[tuple[str, int]] = []
    size = 0
    for tensors in full_files(_as_in_files(model, values), FILE_BYTES):
        parts.append(folder / f"{len(parts)}.part")
        save_file(tensors, parts[-1], metadata={"format": "pt"})
        homes += [(name, len(parts)) for name in tensors]
        size += sum(tensor.nbytes for tensor in tensors.values())
        tensors.clear()
    if len(parts) == 1:
        parts[0].rename(folder / "model.safetensors")
        return
    names = {number: f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)}
    for number, part in enumerate(parts, 1):
        part.rename(folder / names[number])
    weight_map = {name: names[number] for name, number in homes}
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _as_in_files(model: PreTrainedModel, values: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """As the base's files name and cut them, converted by layers: a conversion may need several tensors of one."""
    for _, members in groupby(values, key=lambda item: _layer_of(item[0])):
        converted: dict[str, Tensor] = revert_weight_conversion(model, dict(members))
        while converted:
            name = next(iter(converted))
            yield name, converted.pop(name).contiguous()


def _layer_of(name: str) -> str:
    found = _LAYER.match(name)
    return found[0] if found else name


def full_files(values: Iterable[tuple[str, Tensor]], most: int) -> Iterator[dict[str, Tensor]]:
    """Tensors by name, of at most `most` bytes together, or one that is larger. Clear each when it is written: else it
    would stay until the next one is full."""
    tensors: dict[str, Tensor] = {}
    size = 0
    for name, value in values:
        if tensors and size + value.nbytes > most:
            yield tensors
            tensors, size = {}, 0
        tensors[name] = value
        size += value.nbytes
    if tensors:
        yield tensors
