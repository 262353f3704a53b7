"""Resumable state of a LoRA run: safetensors and JSON only, nothing is unpickled.

Each rank writes the slices of the optimiser that it owns (fp32 master, both moments), keyed
`<parameter>:<offset>:<part>`; they are loaded at any number of ranks without conversion. checkpoint.json has the
rest: step, what the ranks remember, and size and sha256 of every file. A folder appears by rename, whole.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainer.atomic import Guard, named_errors, replace_folder, write_json
from trainer.errors import CheckpointError, RunsFolderError
from trainer.schema.contract import RunFolder

STATE = "checkpoint.json"
PARTS = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Progress:
    """What a run remembers besides weights. Losses are nats per token on the held-out subset."""

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    patience_loss: float | None = None
    """The loss that the next improvement is measured against (min_delta)."""
    evaluations_without_gain: int = 0
    evaluated: int = -1
    """The step of the last evaluation: a stop saves first and leaves the evaluation to the next attempt."""
    before: dict[str, float] = field(default_factory=dict)
    """Held-out losses of the base model."""
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Time spent training, over all attempts."""
    without_update: int = 0
    """Steps that changed nothing: skipped ones, and those whose items are all left out."""
    bad: list[int] = field(default_factory=list)
    """The steps in a row, up to this one, that were skipped: their loss or gradient was no number."""
    skipped: int = 0
    """All skipped steps."""
    left_out: list[int] = field(default_factory=list)
    """Items, by number, that are not trained any more since the run went back to a checkpoint."""
    last_loss: float | None = None
    rises: int = 0
    """Evaluations in a row that were worse than the one before them (`last_loss`)."""

    @property
    def updates(self) -> int:
        """What the optimiser counts."""
        return self.step - self.without_update


Named = list[tuple[str, torch.nn.Parameter]]


def newest(folder: RunFolder) -> Path | None:
    """The newest complete checkpoint, or None."""
    complete = [path for path in _by_step(folder) if (path / STATE).is_file()]
    return complete[-1] if complete else None


def _by_step(folder: RunFolder) -> list[Path]:
    """Checkpoint folders, oldest first: by number, since the names of long runs have more than six digits."""
    found = [path for path in folder.checkpoints.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def clear(temp: Path) -> None:
    """An empty folder for a checkpoint in the making, whatever a killed attempt left."""
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)


def write_slices(engine: Any, temp: Path, rank: int) -> None:
    """This rank's share into `temp` (shared by all ranks)."""
    tensors = {
        f"{name}:{start}:{part}": value.detach().cpu().contiguous().clone()
        for name, start, part, value in _owned(engine)
    }
    try:
        save_file(tensors, str(temp / f"rank-{rank:04d}.safetensors"))
    except (OSError, SafetensorError) as error:
        raise RunsFolderError(
            f"{temp}: the checkpoint cannot be written: {error}; make room and submit again"
        ) from None


def publish(temp: Path, folder: RunFolder, progress: Progress, data: str, keep: int, guard: Guard) -> None:
    """Rank 0, after every rank's write_slices: sign the files, rename, drop the oldest beyond `keep`.

    `data`: digest of the data it was trained on.
    """
    files = {path.relative_to(temp).as_posix(): _signature(path) for path in sorted(temp.rglob("*")) if path.is_file()}
    write_json(temp / STATE, {"progress": asdict(progress), "data": data, "files": files})
    replace_folder(temp, folder.checkpoint(progress.step), guard)
    for old in _by_step(folder)[:-keep]:
        with named_errors(old):
            shutil.rmtree(old)


def read_progress(path: Path) -> tuple[Progress, str]:
    """(progress, digest of the data) of a checkpoint whose files are as they were written; CheckpointError names
    what is not."""
    try:
        value = json.loads((path / STATE).read_text(encoding="utf-8"))
        progress = Progress(**value["progress"])
        files, data = dict(value["files"]), str(value["data"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path / STATE}: cannot be read ({error}); remove {path} to use an older one") from None
    for name, expected in files.items():
        found = _signature(path / name) if (path / name).is_file() else None
        if found != expected:
            raise CheckpointError(f"{path / name}: is not what was written; remove {path} to use an older one")
    return progress, data


def load_slices(parameters: Named, engine: Any, path: Path, step: int) -> None:
    """Parameters, masters and moments from a checkpoint written by any number of ranks after `step` updates.

    Raises CheckpointError where a parameter is not wholly covered: the checkpoint is of another model.
    """
    _create_moments(engine, torch.tensor(float(step)))
    by_name = dict(parameters)
    covered = dict.fromkeys(by_name, 0)
    owned = {(name, part): (start, value) for name, start, part, value in _owned(engine)}
    for name, start, part, value in _stored(path):
        if name not in by_name:
            raise CheckpointError(f"{path}: holds {name}, which this model does not train; remove {path}")
        if part == "master":
            covered[name] += value.numel()
            by_name[name].data.view(-1)[start : start + value.numel()].copy_(value)
        if (name, part) in owned:
            _copy_overlap(*owned[name, part], start, value)
    short = [name for name, count in covered.items() if count != by_name[name].numel()]
    if short:
        raise CheckpointError(f"{path}: {short[0]} is incomplete (and {len(short) - 1} more); remove {path}")


def _owned(engine: Any) -> Iterator[tuple[str, int, str, torch.Tensor]]:
    """(name, offset in that parameter, part, slice) of everything this rank's optimiser owns."""
    state = engine.optimizer.optimizer.state
    groups = engine.optimizer.single_partition_of_fp32_groups
    for flat in engine.module.flats:
        mapping = flat.parameter._hp_mapping
        if mapping is None:
            continue
        address, values = mapping.hp_fragment_address, {"master": mapping.hp_fragment}
        moments = state.get(groups[mapping.param_group_index], {})
        for part in PARTS[1:]:
            if part in moments:
                values[part] = moments[part].narrow(0, address.start, address.numel)
        first = mapping.lp_fragment_address.start
        for name, parameter, begin in flat.pieces:
            low, high = max(first, begin), min(first + address.numel, begin + parameter.numel())
            if low < high:
                for part, value in values.items():
                    yield name, low - begin, part, value[low - first : high - first]


def _create_moments(engine: Any, step: torch.Tensor) -> None:
    # AdamW makes its state at the first step; a resumed run needs it before.
    for flat in engine.optimizer.single_partition_of_fp32_groups:
        engine.optimizer.optimizer.state[flat] = {
            "step": step.to(flat.device).clone() if flat.is_cuda else step.clone(),
            "exp_avg": torch.zeros_like(flat.data),
            "exp_avg_sq": torch.zeros_like(flat.data),
        }


def _stored(path: Path) -> Iterator[tuple[str, int, str, torch.Tensor]]:
    for file in sorted(path.glob("rank-*.safetensors")):
        try:
            with safe_open(str(file), framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    name, start, part = key.rsplit(":", 2)
                    yield name, int(start), part, tensors.get_tensor(key)
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error}); remove {path} to use an older one") from None


def _copy_overlap(start: int, target: torch.Tensor, other: int, source: torch.Tensor) -> None:
    low, high = max(start, other), min(start + target.numel(), other + source.numel())
    if low < high:
        target.data[low - start : high - start].copy_(source[low - other : high - other])


def _signature(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
