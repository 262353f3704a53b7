"""What must be true before torchrun starts: each check ends the run with one sentence and the contract's code.

A wrong mount or a missing package is found here in a second, not after the ranks have loaded 60 GB.
"""

import importlib.util
import os
import uuid
from pathlib import Path

from trainer.atomic import named_errors, read_object
from trainer.base_model import base_digest, model_folder
from trainer.errors import ConfigError, DataError, RunsFolderError
from trainer.schema.config import TrainConfig
from trainer.schema.contract import MANIFEST, RunFolder
from trainer.schema.identity import train_hash
from trainer.schema.loading import RunFile, read_run_file

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "deepspeed", "accelerate", "safetensors", "PIL", "pynvml")
"""What the ranks and the report import."""

PROBE_BYTES = 1 << 20
"""Written and removed again: a volume with less than this left is full."""


def check_packages(train: TrainConfig, packages: tuple[str, ...] = PACKAGES) -> None:
    """ConfigError names every package that cannot be imported; none is imported here."""
    asked = {"wandb": ("wandb", train.ops.wandb), "tensorboardX": ("tensorboard", train.ops.tensorboard)}
    more = {package: extra for package, (extra, wanted) in asked.items() if wanted}
    missing = [name for name in (*packages, *more) if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(["trainer", *more.values()])
        raise ConfigError(
            f"this Python has no {', '.join(missing)}: pip install 'kctl[{extras}]', or use the trainer's image"
        )


def check_data(train: TrainConfig, data: Path) -> None:
    """DataError unless the data files below `data` are there and can be opened."""
    wanted = {"train.data.path": train.data.path, "train.data.validation.path": train.data.validation.path}
    for field, name in wanted.items():
        if name is None:
            continue
        path = data / name
        if not path.is_file():
            raise DataError(f"{path}: no such file: copy it to the data volume, or correct {field}")
        if not os.access(path, os.R_OK):
            raise DataError(f"{path}: may not be read by uid {os.getuid()}: chmod it, or set run_as in the profile")


def check_init_adapter(train: TrainConfig, runs: Path, models: Path) -> None:
    """ConfigError unless the adapter to start from, if any, is there and was trained on this very base model."""
    name = train.lora.init_adapter if train.lora is not None else None
    if name is None:
        return
    if not (runs / name / "adapter_config.json").is_file():
        raise ConfigError(f"{runs / name}: no adapter there: correct train.lora.init_adapter")
    if read_object(runs / name / MANIFEST).get("base") != base_digest(model_folder(train, models)):
        raise ConfigError(f"{runs / name}: was trained on another base model than train.model: name one of this model")


def check_runs_folder(folder: RunFolder, file: RunFile) -> None:
    """RunsFolderError unless the run's folder (made here if need be) is this run's and takes a real write."""
    runs = folder.root.parent
    if not runs.is_dir():
        raise RunsFolderError(f"{runs}: no such folder: mount the runs volume there, or set TRAINER_RUNS")
    check_same_run(folder, file)
    with named_errors(folder.root):
        folder.root.mkdir(exist_ok=True)
    probe = folder.root / f".probe.{uuid.uuid4().hex[:12]}.tmp"
    with named_errors(folder.root):
        try:
            with probe.open("wb") as out:
                out.write(os.urandom(PROBE_BYTES))  # random: a volume that compresses must find the room, too
                out.flush()
                os.fsync(out.fileno())
        finally:
            probe.unlink(missing_ok=True)


def check_same_run(folder: RunFolder, file: RunFile) -> None:
    """RunsFolderError where the folder holds another run; `ops` may differ."""
    if not folder.config.exists():
        return
    try:
        other = read_run_file(folder.config)
    except ConfigError as error:
        raise RunsFolderError(
            f"{folder.root}: holds a run that this image cannot read ({error}): move that folder away, submit again"
        ) from None
    if other.run != file.run or train_hash(other.train) != train_hash(file.train):
        raise RunsFolderError(
            f"{folder.root}: belongs to run {other.run}, not to {file.run}: move that folder away and submit again"
        )
