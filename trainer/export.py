"""A run's adapter for servers and libraries that know no fused experts: `python -m trainer.export RUN [--last]`.

Writes RUN/exported (or exported-last): one pair an expert and projection, named as the base model's own files name
them (`experts.7.gate_proj.lora_A.weight`), at one scale: as PEFT wrote it before transformers 5, and as vLLM reads it.
What was written is read again and compared with the adapter on random inputs before it appears.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from trainer.adapters import WEIGHTS, listing
from trainer.after.deltas import Pair, by_expert, cut_rows, empty_model, in_files, pairs_of
from trainer.after.finished import Finished, command, finished
from trainer.atomic import named_errors, read_object, replace_folder, temporary, write_json, write_text
from trainer.errors import CheckpointError, ConfigError
from trainer.metrics import say
from trainer.schema.contract import MANIFEST

_PREFIX = "base_model.model."
_HALVES = {"gate_proj": 0, "w1": 0, "up_proj": 1, "w3": 1}
"""Which half of a fused gate_up_proj a projection is."""
_TOLERANCE = 1e-5
"""Relative, in fp32: both sides multiply the same numbers."""


def export(run: Finished, target: Path) -> None:
    """`target` as an adapter folder of plain linear layers, replacing what was there.

    ConfigError for a method or an arrangement of experts that has no such form, CheckpointError for an adapter that
    does not fit, or where the two forms are not the same.
    """
    if run.full:
        raise ConfigError(f"{run.adapter}: method full trains the whole model: there is no adapter to export")
    model, pairs = empty_model(run.base), pairs_of(empty_model(run.base), run.adapter)
    temp = temporary(target)
    with named_errors(temp):
        temp.mkdir()
    try:
        with safe_open(run.adapter / WEIGHTS, framework="pt") as file:
            stored = {pair: (file.get_tensor(pair.a), file.get_tensor(pair.b)) for pair in pairs}
        layers = {pair: list(linear_layers(model, pair, *stored[pair])) for pair in pairs}
        write_linear(temp, layers, read_object(run.adapter / "adapter_config.json"))
        for pair in pairs:
            compare(temp, pair, *stored[pair], [name for name, _, _ in layers[pair]])
        manifest = {"files": listing(temp), "adapter": run.digest}
        write_json(temp / MANIFEST, {**manifest, "base": read_object(run.adapter / MANIFEST).get("base")})
        replace_folder(temp, target)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    say(f"done: {target}: {sum(map(len, layers.values()))} layers, the same as the adapter on random inputs")


def linear_layers(model: PreTrainedModel, pair: Pair, a: Tensor, b: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(layer, A (r, in), B (rows, r)) of every linear layer that the pair's parameter is made of. ConfigError."""
    if pair.experts == 1:
        yield pair.parameter.removesuffix(".weight"), a, b
        return
    rows = cut_rows(model, pair, tuple(model.get_parameter(pair.parameter).shape))
    if rows is None or pair.parameter in rows:
        raise ConfigError(f"{pair.parameter}: experts of this family are linear layers nowhere: serve the merged model")
    left, right = by_expert(pair, a, b)
    for name, part in in_files(model, pair.parameter, left).items():
        # A copy each: a file has no place for a tensor that is there twice, and gate and up share A.
        yield (
            name.removesuffix(".weight"),
            right[rows[name][0]].clone(),
            part.clone(memory_format=torch.contiguous_format),
        )


def write_linear(folder: Path, layers: dict[Pair, list[tuple[str, Tensor, Tensor]]], config: dict[str, Any]) -> None:
    """The two files of the adapter: the largest rank as r, smaller ones by pattern, one scale for all. ConfigError."""
    scale, *others = {pair.scaling for pair in layers}
    if others:
        raise ConfigError("the adapter has several scales, and vLLM knows one an adapter: serve the merged model")
    everything = [one for found in layers.values() for one in found]
    state = {f"{_PREFIX}{name}.lora_A.weight": a for name, a, _ in everything}
    state |= {f"{_PREFIX}{name}.lora_B.weight": b for name, _, b in everything}
    with named_errors(folder):
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    rank = max(a.shape[0] for _, a, _ in everything)
    smaller = {re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(name)): a.shape[0] for name, a, _ in everything}
    smaller = {pattern: own for pattern, own in smaller.items() if own != rank}
    linear = {
        **config,
        "r": rank,
        "lora_alpha": scale * rank,
        "use_rslora": False,
        "rank_pattern": smaller,
        "alpha_pattern": {pattern: scale * own for pattern, own in smaller.items()},
        "target_modules": sorted({name.rpartition(".")[2] for name, _, _ in everything}),
        "target_parameters": None,
    }
    write_text(folder / "adapter_config.json", json.dumps(linear, indent=2, sort_keys=True) + "\n")


def compare(folder: Path, pair: Pair, a: Tensor, b: Tensor, names: Sequence[str]) -> None:
    """CheckpointError unless the folder's layers do to random inputs what the stored pair does, in fp32.

    The stored pair is applied as PEFT lays it out and cut by what the projections are called, which is how those who
    read the folder take it: nothing here is shared with what wrote it.
    """
    config = read_object(folder / "adapter_config.json")
    scale, rows = config["lora_alpha"] / config["r"], 0
    inputs = torch.randn(4, a.shape[1], generator=torch.Generator().manual_seed(0))
    shrunk = torch.einsum("ni,eri->ner", inputs, a.float().view(pair.experts, -1, a.shape[1]))
    stored = torch.einsum("ner,ore->neo", shrunk, b.float().view(b.shape[0], -1, pair.experts)) * pair.scaling
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for name in names:
            theirs_a, theirs_b = (file.get_tensor(f"{_PREFIX}{name}.lora_{side}.weight").float() for side in "AB")
            found = (inputs @ theirs_a.T) @ theirs_b.T * scale
            expert, kind = re.findall(r"experts\.(\d+)\.(\w+)$", name)[0] if pair.experts > 1 else (0, "")
            wanted = stored[:, int(expert)]
            if pair.experts > 1 and kind in _HALVES:
                wanted = wanted.chunk(2, dim=-1)[_HALVES[kind]]
            if found.shape != wanted.shape or (found - wanted).norm() > _TOLERANCE * wanted.norm():
                raise CheckpointError(f"{name}: the export is not what {pair.a} does: serve the merged model instead")
            rows += found.shape[1]
    if rows != stored.shape[1] * stored.shape[2]:
        raise CheckpointError(f"{pair.parameter}: {rows} rows of it were exported, not all: serve the merged model")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.export", description="Export a run's adapter.")
    parser.add_argument("run", help="a folder of the runs volume (TRAINER_RUNS)")
    parser.add_argument("--last", action="store_true", help="the newest adapter instead of the best")
    chosen = parser.parse_args()

    def story() -> None:
        run = finished(chosen.run, chosen.last)
        export(run, run.folder.exported_last if chosen.last else run.folder.exported)

    return command(story)


if __name__ == "__main__":
    sys.exit(main())
