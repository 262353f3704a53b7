"""Adapter folders: what is trained as files that plain PEFT (or, for method full, transformers) loads.

Safetensors and JSON only. A folder appears by rename with a MANIFEST.json of sizes and sha256, or not at all.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainer.atomic import Guard, named_errors, replace_folder, temporary, write_json, write_text
from trainer.base_model import base_digest
from trainer.errors import CheckpointError, RunsFolderError
from trainer.schema.config import TrainConfig
from trainer.schema.contract import MANIFEST
from trainer.whole_model import write_model

WEIGHTS = "adapter_model.safetensors"


def state_name(name: str) -> str:
    """PEFT's file key of an adapter parameter: `...lora_A.default.weight` -> `...lora_A.weight`."""
    return name.replace(".default.", ".")


def adapter_state(model: nn.Module, masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PEFT's keys -> what is saved, fp32 on the CPU, from the masters by the names of model.named_parameters().

    CheckpointError if a master is missing.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    missing = [name for name in trained if name not in masters]
    if missing:
        raise CheckpointError(f"no master weights for {missing[0]} ({len(missing)} missing): the adapter is not saved")
    return {state_name(name): masters[name].detach().to("cpu", torch.float32).contiguous() for name in trained}


def save_adapter(
    model: nn.Module,
    state: Iterable[tuple[str, Tensor]],
    folder: Path,
    train: TrainConfig,
    run: str,
    details: Mapping[str, Any],
    base: Path,
    guard: Guard | None = None,
) -> None:
    """Write `folder`, replacing what was there: weights, config, README.md, MANIFEST.json.

    `state`: an adapter's items by PEFT's keys, or a whole model's by its own names, which are read as they are written.
    `details`: step, steps, trained, total, before and after (losses by name); where they are known, losses (those of
    this very adapter) and data (the digest of its items). `base`: the base model's folder. `guard` is asked right
    before the rename.
    """
    temp = temporary(folder)
    try:
        with named_errors(folder):
            temp.mkdir(parents=True)
            _write_weights(model, state, temp, train, base)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)  # a whole model's half would fill the volume until the next start
        raise
    patterns = isinstance(model, PeftModel) and bool(model.peft_config["default"].rank_pattern)
    write_text(temp / "README.md", model_card(train, run, {**details, "patterns": patterns}))
    manifest = {"files": listing(temp), "run": run, "step": details["step"], "base": base_digest(base)}
    manifest |= {name: details[name] for name in ("losses", "data") if details.get(name)}  # kctl shows them
    if train.lora is not None:
        manifest["lora_dropout"] = train.lora.dropout
    write_json(temp / MANIFEST, manifest)
    replace_folder(temp, folder, guard)


def _write_weights(
    model: nn.Module, state: Iterable[tuple[str, Tensor]], temp: Path, train: TrainConfig, base: Path
) -> None:
    try:
        if isinstance(model, PeftModel):
            save_file(dict(state), temp / WEIGHTS, metadata={"format": "pt"})
            write_text(temp / "adapter_config.json", _config_json(model, train))
        else:
            assert isinstance(model, PreTrainedModel)  # what load_model returns
            write_model(model, state, temp, base)
    except SafetensorError as error:
        raise RunsFolderError(f"{temp.parent}: {error}: make room there and submit again") from None


def _config_json(model: PeftModel, train: TrainConfig) -> str:
    """adapter_config.json as PEFT writes it, but with the base model's portable name and sets in order."""
    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path = base_name(train)
    config.revision = train.model.hub.revision if train.model.hub else None
    config.inference_mode = True
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def base_name(train: TrainConfig) -> str:
    """The base model as a person names it: its path below the models volume, or its hub id."""
    return train.model.hub.id if train.model.hub else str(train.model.path)


def listing(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file of a folder, as MANIFEST.json has them."""
    return {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_adapter(folder: Path) -> None:
    """CheckpointError naming the first file that is missing or is not what MANIFEST.json says."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = [(folder / name, int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()]
    except OSError as error:
        raise CheckpointError(f"{folder / MANIFEST}: {error.strerror}: the adapter is incomplete") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: no manifest of an adapter ({error})") from None
    for path, size, digest in listed:
        if path.parent != folder or not path.is_file():
            raise CheckpointError(f"{path}: listed in {MANIFEST} but missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, {MANIFEST} says {size}")
        if _sha256(path) != digest:
            raise CheckpointError(f"{path}: its sha256 is not the one in {MANIFEST}: the file is damaged")


# --------------------------------------------------------------------------------------------------------------
# the model card


def model_card(train: TrainConfig, run: str, details: Mapping[str, Any]) -> str:
    """README.md: YAML front matter for hubs, then what this is and how to load it."""
    lines = [*_front_matter(train), "", *_facts(train, run, details), "", *_losses(details), *_loading(train)]
    if details.get("patterns"):
        lines += [
            "PEFT 0.21 warns that keys of rank_pattern match no module: they name parameters, and they apply.",
            "",
        ]
    return "\n".join(lines)


def _front_matter(train: TrainConfig) -> Iterator[str]:
    yield "---"
    yield f"base_model: {json.dumps(base_name(train))}"
    yield f"library_name: {'peft' if train.lora else 'transformers'}"
    yield "pipeline_tag: text-generation"
    yield "tags:"
    yield from (f"- {tag}" for tag in (("lora", "kctl") if train.lora else ("kctl",)))
    yield "---"


def _facts(train: TrainConfig, run: str, details: Mapping[str, Any]) -> Iterator[str]:
    hub = train.model.hub
    yield f"# {run}"
    yield ""
    yield f"- base model: {base_name(train)}" + (f" at revision {hub.revision}" if hub else "")
    yield f"- data: {train.data.path} (format {train.data.format})"
    yield f"- steps: {details['step']} of {details.get('steps', details['step'])}, {train.global_batch_size} items each"
    if {"trained", "total"} <= details.keys():
        yield f"- trained parameters: {details['trained']:,} beside {details['total']:,} of the base model"
    if train.lora is not None:
        lora = train.lora
        yield f"- LoRA: rank {lora.rank}, alpha {lora.effective_alpha:g}, dropout {lora.dropout:g} while training"
        yield f"- adapted layers: {', '.join(lora.targets)}"


def _losses(details: Mapping[str, Any]) -> Iterator[str]:
    before, after = details.get("before") or {}, details.get("after") or {}
    kinds = [kind for kind in after if isinstance(after[kind], int | float)]
    if not kinds:
        return
    yield "| held-out loss (nats per token) | before | after |"
    yield "|---|---|---|"
    for kind in kinds:
        start = f"{before[kind]:.4f}" if kind in before else "-"
        yield f"| {kind} | {start} | {after[kind]:.4f} |"
    yield ""


def _loading(train: TrainConfig) -> Iterator[str]:
    name = json.dumps(base_name(train))
    yield "```python"
    yield "from transformers import AutoModelForCausalLM"
    if train.lora is None:
        yield 'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER", dtype="auto")'
    else:
        yield "from peft import PeftModel"
        yield f'base = AutoModelForCausalLM.from_pretrained({name}, dtype="auto")'
        yield 'model = PeftModel.from_pretrained(base, "THIS_FOLDER")'
        yield "model = model.merge_and_unload()  # optional: plain weights"
    yield "```"
    yield ""
