"""Runs that look finished, without training: volumes with a tiny base model in shards and a folder with its adapter."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.training.tiny import awaken, config_of, train_config
from trainer.adapters import adapter_state, save_adapter
from trainer.model import add_adapters, load_model, trained_parameters
from trainer.schema.contract import RunFolder
from trainer.schema.identity import train_hash
from trainer.schema.loading import RunFile

CPU = torch.device("cpu")
LORA = {"rank": 4, "alpha": 8, "expert_rank": 16}


@dataclass(frozen=True)
class FinishedRun:
    """A run's volumes below `root`."""

    root: Path
    run: str

    @property
    def base(self) -> Path:
        return self.root / "models" / "tiny"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.root / "runs" / self.run)

    @property
    def environ(self) -> dict[str, str]:
        """As a pod of the run has it."""
        roots = {f"TRAINER_{name.upper()}": str(self.root / name) for name in ("models", "data", "runs")}
        return {**os.environ, **roots, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}

    def program(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`python -m WORDS` in the run's environment."""
        argv = [sys.executable, "-m", *words]
        return subprocess.run(argv, env=self.environ, capture_output=True, text=True, check=False, timeout=200)

    def merged_by_peft(self) -> Any:
        """The base model with the adapter merged into it by plain PEFT, fp32."""
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(model, self.folder.adapter).merge_and_unload().eval()


def finished_run(
    root: Path,
    family: str = "qwen3",
    shard: str = "60KB",
    tokenizer: Path | None = None,
    vocabulary: int = 100,
    dtype: torch.dtype = torch.float32,
    **train: Any,
) -> FinishedRun:
    """A run of `family` whose adapter does something; base model of random weights in files of at most `shard`."""
    config = train_config(**{"lora": LORA, **train})
    made = FinishedRun(root, f"tiny-{train_hash(config)[:8]}")
    for name in ("models", "data", "runs"):
        (root / name).mkdir(parents=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, vocabulary), dtype=dtype)
    model.save_pretrained(made.base, max_shard_size=shard)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if tokenizer is None:
            (made.base / name).write_text("{}")
        else:
            shutil.copyfile(tokenizer / name, made.base / name)
    made.folder.root.mkdir()
    made.folder.config.write_text(RunFile(made.run, config).to_json())
    write_adapter(made, config, seed=3)
    return made


def write_adapter(made: FinishedRun, config: Any, seed: int) -> None:
    """An adapter with random weights, as the run's best one."""
    model = load_model(config, made.base, CPU)
    if config.lora is not None:
        model = add_adapters(model, config)
        awaken(model, seed)
    masters = {name: parameter.detach() for name, parameter in trained_parameters(model)}
    details = {"step": 3, "steps": 9, "trained": 1, "total": 2}
    state = masters if config.lora is None else adapter_state(model, masters)
    save_adapter(model, state.items(), made.folder.adapter, config, made.run, details, made.base)


def remanifest(folder: Path, **changes: Any) -> None:
    """MANIFEST.json says again what is there, after a test changed a file of it; `changes` are laid over it."""
    from trainer.adapters import listing

    path = folder / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**manifest, "files": listing(folder), **changes}))
