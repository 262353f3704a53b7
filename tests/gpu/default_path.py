"""The trainer's default path on real GPUs, by hand: `python -m tests.gpu.default_path TOKENIZER_FOLDER --ranks N`.

Saves a random Qwen3-30B-A3B of fewer layers in bf16, writes made-up dialogue, and runs the launcher as a pod would:
LoRA on attention and experts, then the same with reference kernels, a stop and resume, and every parameter under
ZeRO-3. Prints what each left behind; exit 1 where something is not as it must be.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from tests.bench_dataset import write_chameleons
from trainer.adapters import verify_adapter
from trainer.schema.config import TrainConfig
from trainer.schema.identity import run_name
from trainer.schema.loading import RunFile, validated


def save_model(folder: Path, tokenizer: Path, layers: int) -> None:
    """Qwen3-30B-A3B's sizes, `layers` instead of 48, random weights."""
    config = Qwen3MoeConfig(
        hidden_size=2048, num_hidden_layers=layers, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
        num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, intermediate_size=6144, vocab_size=151936,
        norm_topk_prob=True, rope_theta=1e7, decoder_sparse_step=1, mlp_only_layers=[],
    )  # fmt: skip
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


@dataclass(frozen=True)
class Launched:
    """What a run of the launcher left. first, stopping: seconds to the first step's line; from the act to the end."""

    code: int
    log: str
    folder: Path
    first: float
    stopping: float


def terminate(launcher: "subprocess.Popen[str]") -> None:
    launcher.send_signal(signal.SIGTERM)


def launch(
    root: Path, name: str, ranks: int, at: str = "", act: Callable[["subprocess.Popen[str]"], None] = terminate,
    **changes: Any,
) -> Launched:  # fmt: skip
    """Run the launcher once; when a log line contains `at`, `act` on it."""
    value: dict[str, Any] = {
        "model": {"path": "model"},
        "data": {"path": "data.json", "format": "chameleons", "max_length": 1024},
        "lora": {"rank": 64, "alpha": 128, "dropout": 0.05, "expert_rank": 8},
        "optim": {"lr": 2e-4, "max_grad_norm": 0.5},
        "global_batch_size": 64,
        "max_steps": 12,
        "evaluation": {"per_epoch": 1, "max_items": 64},
        "ops": {"log_every": 2, "checkpoint": {"every": "1000 steps"}, **changes.pop("ops", {})},
        **changes,
    }
    if value.get("method") == "full":
        del value["lora"]
    train = validated(TrainConfig, value, name)
    file = RunFile(run_name(name, train), train)
    config = root / f"{file.run}.json"
    config.write_text(file.to_json())
    environment = os.environ | {
        "TRAINER_CONFIG": str(config), "TRAINER_MODELS": str(root), "TRAINER_DATA": str(root),
        "TRAINER_RUNS": str(root / "runs"), "TRAINER_TERMINATION_LOG": str(root / "end"),
        "PET_NPROC_PER_NODE": str(ranks),
    }  # fmt: skip
    (root / "runs").mkdir(exist_ok=True)
    start, first, acted = time.monotonic(), 0.0, 0.0
    command = [sys.executable, "-m", "trainer.launch"]
    log = []
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, text=True, **pipe) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            if line.startswith("step=") and not first:
                first = time.monotonic() - start
            if at and at in line and not acted:
                acted = time.monotonic()
                act(process)
    text, end = "".join(log), time.monotonic()
    told = ("torch ", "trained ", "step=", "evaluation ", "resumed", "checkpoint")
    stopping = end - acted if acted else 0.0
    print(
        f"== {name}: exit {process.returncode} in {end - start:.0f} s, first line after {first:.1f} s, "
        f"end after {stopping:.1f} s",
        flush=True,
    )
    print("".join(line for line in log if line.startswith(told)), flush=True)
    if process.returncode not in (0, 143):
        print(text[-6000:])
    return Launched(process.returncode, text, root / "runs" / file.run, first, stopping)


def parsed(about: str | None) -> argparse.Namespace:
    """tokenizer, layers, ranks."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    arguments = parsed(__doc__)
    root = Path(tempfile.mkdtemp())
    save_model(root / "model", arguments.tokenizer, arguments.layers)
    write_chameleons(root / "data.json", 1600)
    ranks = arguments.ranks
    default = launch(root, "default", ranks)
    verify_adapter(default.folder / "adapter")
    reference = launch(root, "reference", ranks, ops={"kernels": "reference"}, max_steps=4)
    stopped = launch(root, "resumed", ranks, at="step=6/", seed=7)
    resumed = launch(root, "resumed", ranks, seed=7)
    shutil.rmtree(root / "model")
    save_model(root / "model", arguments.tokenizer, 1)
    full = launch(root, "full", ranks, method="full", max_steps=6)
    verify_adapter(full.folder / "adapter")
    return int([one.code for one in (default, reference, stopped, resumed, full)] != [0, 0, 143, 0, 0])


if __name__ == "__main__":
    sys.exit(main())
