"""A run's adapter as merge, generate and export take it: whole, of this very base model, nothing pickled.

Reads the run's folder alone: the roots of the volumes come from the environment, as in a pod of the run.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.adapters import WEIGHTS, verify_adapter
from trainer.atomic import read_object
from trainer.base_model import base_digest, check_model, model_folder
from trainer.errors import CheckpointError, ConfigError, TrainerError
from trainer.schema import contract
from trainer.schema.contract import MANIFEST, RunFolder
from trainer.schema.loading import RunFile, read_run_file


@dataclass(frozen=True)
class Finished:
    """One adapter folder of a run, checked. digest: sha256 of its manifest, which names the adapter."""

    folder: RunFolder
    file: RunFile
    base: Path
    adapter: Path
    digest: str

    @property
    def full(self) -> bool:
        """The adapter folder holds a whole model: method full."""
        return self.file.train.method == "full"


def finished(run: str, last: bool) -> Finished:
    """The best (or last) adapter of `run`. ConfigError for no such run and for another base model, CheckpointError
    for an adapter that is not there yet, damaged, or not safetensors."""
    if not run or "/" in run or run.startswith("."):
        raise ConfigError(f"{run!r} is no run's name: name a folder of the runs volume")
    folder = RunFolder(contract.mounted(contract.ENV_RUNS).absolute() / run)
    if not folder.config.is_file():
        raise ConfigError(f"{folder.root}: no run there: name a folder of the runs volume, or submit the run first")
    file = read_run_file(folder.config)
    adapter = folder.adapter_last if last else folder.adapter
    if not (adapter / MANIFEST).is_file():
        raise CheckpointError(f"{adapter}: not there: a run writes it at its first evaluation or its end")
    models = contract.mounted(contract.ENV_MODELS)
    check_model(file.train, models)
    base = model_folder(file.train, models)
    verify_adapter(adapter)
    if file.train.method == "lora":
        _check_lora(adapter, base)
    return Finished(folder, file, base, adapter, hashlib.sha256((adapter / MANIFEST).read_bytes()).hexdigest())


def _check_lora(adapter: Path, base: Path) -> None:
    for name in (WEIGHTS, "adapter_config.json"):
        if not (adapter / name).is_file():
            raise CheckpointError(f"{adapter}: no {name}: only adapters that a run wrote are taken, never pickles")
    if read_object(adapter / MANIFEST).get("base") != base_digest(base):
        raise ConfigError(
            f"{adapter}: was trained on other weights than {base} holds now: put that base model back there "
            f"(the digest of its files is `base` in {MANIFEST})"
        )


def command(story: Callable[[], None]) -> int:
    """The boundary of a program: its exit code; what ends it as one line on stderr."""
    try:
        story()
    except TrainerError as error:
        print(f"error: {error} (code {int(error.code)})", file=sys.stderr, flush=True)
        return int(error.code)
    except BrokenPipeError:  # who reads us has gone; what is done is kept
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0
