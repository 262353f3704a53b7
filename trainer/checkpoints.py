"""Checkpoints on the runs volume: which there are, whether each is whole and this run's, which are kept.

A folder appears by rename with checkpoint.json, the manifest: what the state belongs to, where in the data it is, what
the ranks remember, size and sha256 of every file, and its own sha256. What is in the files: slices.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from trainer.atomic import Guard, named_errors, replace_folder, temporary, write_json
from trainer.errors import CheckpointDamaged, CheckpointError, TrainerError
from trainer.schema.contract import RunFolder
from trainer.schema.identity import canonical

SCHEMA = 1
"""Raised when what is written is to be read otherwise."""
MANIFEST = "checkpoint.json"
DAMAGED = "damaged-"
"""Begins the name of a folder that was not what had been written."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

Named = list[tuple[str, nn.Parameter]]
Files = dict[str, dict[str, Any]]
"""Size and sha256 of every file by its name in the checkpoint's folder."""


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


@dataclass(frozen=True)
class Origin:
    """What a checkpoint belongs to; for anything else it is of no use."""

    run: str
    config: str
    """sha256 of what the run computes (trainer.schema.identity)."""
    base: str
    """Digest of the base model's weights."""
    data: str
    """Digest of the items trained and judged on."""


@dataclass(frozen=True)
class Checkpoint:
    """One that was read; `world`: how many ranks wrote it."""

    path: Path
    world: int
    progress: Progress
    files: Files


def by_step(folder: RunFolder) -> list[Path]:
    """Checkpoint folders, oldest first: by number, since the names of long runs have more than six digits."""
    found = [path for path in folder.checkpoints.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name[5:])


def publish(
    temp: Path, folder: RunFolder, origin: Origin, progress: Progress, about: dict[str, Any], files: Files, guard: Guard
) -> None:
    """Rank 0, once all files are in `temp`: the manifest, then the rename. `about`: world, and where in the data it is.

    RunsFolderError if the volume does not take it; what `guard` raises.
    """
    value = {"schema": SCHEMA, **asdict(origin), "step": progress.step, **about}
    value |= {"progress": asdict(progress), "files": files}
    write_json(temp / MANIFEST, {**value, "sha256": _own_digest(value)})
    replace_folder(temp, folder.checkpoint(progress.step), guard)


def signature(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, for a manifest."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read(path: Path, origin: Origin) -> Checkpoint:
    """The checkpoint at `path`, its manifest checked, its files present in the right sizes.

    CheckpointDamaged where it is not what was written; CheckpointError where it is of something else than `origin`.
    """
    value = _manifest(path)
    if value["step"] != step_of(path):
        raise CheckpointDamaged(f"{path}: holds step {value['step']}")
    if (value["run"], value["config"]) != (origin.run, origin.config):
        raise CheckpointError(f"{path}: is of run {value['run']}, not of {origin.run}: remove that folder")
    if value["base"] != origin.base:
        raise CheckpointError(
            f"{path}: was trained on another base model than train.model names now: put the old files back, or raise "
            "train.revision to start a new run on the new model"
        )
    if value["data"] != origin.data:
        raise CheckpointError(
            f"{path}: was trained on other data than train.data.path holds now: put the old file back, or raise "
            "train.revision to start a new run on the new data"
        )
    try:
        checkpoint = Checkpoint(path, value["world"], Progress(**value["progress"]), value["files"])
    except TypeError as error:
        raise _other_version(path, f"another version of this trainer ({error})") from None
    _check_sizes(checkpoint)
    return checkpoint


def _manifest(path: Path) -> dict[str, Any]:
    try:
        value = json.loads((path / MANIFEST).read_bytes())
        if "schema" not in value and {"progress", "files"} <= value.keys():
            raise _other_version(path, "a version of this trainer that had no schema yet")
        whole = value.pop("sha256") == _own_digest(value)
    except PermissionError:
        raise _not_ours_to_read(path / MANIFEST) from None
    except (*_ABSENT, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointDamaged(f"{path / MANIFEST}: cannot be read ({error})") from None
    except OSError as error:
        raise _no_answer(path / MANIFEST, error) from None
    if not whole:
        raise CheckpointDamaged(f"{path / MANIFEST}: is not what was written")
    if value.get("schema") != SCHEMA:
        raise _other_version(path, f"a version of this trainer whose schema is {value.get('schema')}, not {SCHEMA}")
    return dict(value)


def _other_version(path: Path, writer: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: was written by {writer}: continue with the image that wrote it, or raise train.revision to start "
        "a new run"
    )


def _not_ours_to_read(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: may not be read: let the pod's user read it (profile: run_as) and submit again")


def _no_answer(path: Path, error: OSError) -> TrainerError:
    # Of a volume that fails for a moment, nothing follows for what lies on it.
    return TrainerError(f"{path}: {error.strerror}: the volume does not answer; trying again")


def _own_digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    # Hidden ones are the file system's own.
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def _check_sizes(checkpoint: Checkpoint) -> None:
    path, files = checkpoint.path, checkpoint.files
    found = {one.relative_to(path).as_posix(): one for one in _files(path) if one.name != MANIFEST}
    for name in sorted(files.keys() ^ found.keys()):
        raise CheckpointDamaged(f"{path / name}: {'is missing' if name in files else 'was not written with the rest'}")
    for name, one in found.items():
        if one.stat().st_size != files[name]["size"]:
            raise CheckpointDamaged(f"{one}: has {one.stat().st_size} bytes, {files[name]['size']} were written")


def verify(checkpoint: Checkpoint, share: int = 0, shares: int = 1) -> None:
    """Compare every file's sha256, or those of one share of `shares`: ranks divide the work. CheckpointDamaged."""
    for name in sorted(checkpoint.files)[share::shares]:
        path = checkpoint.path / name
        try:
            same = signature(path) == checkpoint.files[name]
        except PermissionError:
            raise _not_ours_to_read(path) from None
        except _ABSENT as error:
            raise CheckpointDamaged(f"{path}: cannot be read ({error.strerror})") from None
        except OSError as error:
            raise _no_answer(path, error) from None
        if not same:
            raise CheckpointDamaged(f"{path}: is not what was written (sha256)")


def set_aside(path: Path) -> None:
    """Take a damaged checkpoint out of the way: it must not count among those that are kept."""
    final = path.with_name(DAMAGED + path.name)
    with named_errors(path):
        shutil.rmtree(final, ignore_errors=True)
        path.rename(final)


def prune(folder: RunFolder, keep: int, best_step: int, keep_every: int | None = None) -> None:
    """Remove all but the newest `keep`, the newest that is not past the best evaluation, and the first in each
    `keep_every` steps; damaged ones too."""
    found = by_step(folder)
    judged = [path for path in found if step_of(path) <= best_step]
    firsts = {step_of(path) // keep_every: path for path in reversed(found)} if keep_every else {}
    firsts.pop(0, None)
    kept = {*found[-keep:], *judged[-1:], *firsts.values()}
    for old in [path for path in found if path not in kept] + list(folder.checkpoints.glob(f"{DAMAGED}step-*")):
        with named_errors(old):
            gone = temporary(old)  # if this is interrupted, nobody takes the rest for a checkpoint
            old.rename(gone)
            shutil.rmtree(gone)
