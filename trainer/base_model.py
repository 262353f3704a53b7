"""Where the base model's files are (a folder of the models volume, or a hub's pinned snapshot) and which they are.

Knows file names and the hub's client, nothing of torch: the launcher asks before any rank starts.
"""

import hashlib
import os
from pathlib import Path

from trainer.errors import ConfigError, TrainerError, first_line
from trainer.schema.config import TrainConfig
from trainer.schema.method import Hub

HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""What is taken from a hub: weights, configuration, tokenizer; never code."""

_SAMPLE = 64 * 1024


def check_model(train: TrainConfig, models: Path) -> None:
    """ConfigError unless the base model's folder below `models` is complete (models of a hub: checked when got)."""
    if train.model.path is None:
        return
    folder = models / train.model.path
    hint = "copy the model there, or correct train.model.path"
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such model folder: {hint}")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: no {name} in the model folder: {hint}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ConfigError(f"{folder}: no *.safetensors in the model folder: {hint}")
    for path in (folder / "config.json", folder / "tokenizer.json", *weights):
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{path}: may not be read by uid {os.getuid()}: chmod it, or set run_as in the profile")


def model_folder(train: TrainConfig, models: Path) -> Path:
    """The base model's folder; one of a hub is fetched into the local cache first. ConfigError if that fails."""
    if train.model.path is not None:
        return models / train.model.path
    assert train.model.hub is not None  # the schema wants exactly one
    return _from_hub(train.model.hub)


def base_digest(folder: Path) -> str:
    """64 hex digits that tell base models apart in seconds: header, size and three samples of every weight file."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as stream:
            header = min(int.from_bytes(stream.read(8), "little"), size)  # a damaged file may say anything
            digest.update(stream.read(header))
            for start in (8 + header, (8 + header + size - _SAMPLE) // 2, size - _SAMPLE):
                stream.seek(max(0, start))
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()


def _from_hub(hub: Hub) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    where = f"train.model.hub: {hub.id} at {hub.revision}"
    try:
        return Path(snapshot_download(hub.id, revision=hub.revision, allow_patterns=list(HUB_FILES)))
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise ConfigError(
                f"{where}: not in the cache, and HF_HUB_OFFLINE is set: unset it or fill HF_HOME"
            ) from None
        raise TrainerError(f"{where}: the hub does not answer: {first_line(error)}; trying again") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(f"{where}: {first_line(error)}; correct id and revision, or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:  # its trouble, not ours: another attempt may help
        raise TrainerError(f"{where}: {first_line(error)}; trying again") from None
