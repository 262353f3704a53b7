"""A merge's peak memory, as the kernel counts it of a real process, on a model larger than what is promised."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.training.finished_runs import FinishedRun, finished_run, write_adapter
from trainer.schema.loading import read_run_file

MEASURED = """
import pathlib, re, sys
from trainer import merge

def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports is not the merge's
before = kib("VmRSS")
assert merge.main() == 0
print(kib("VmHWM") - before)
"""


def used(made: FinishedRun) -> int:
    """Bytes that a merge takes at its peak, on top of what Python and torch have."""
    argv = [sys.executable, "-c", MEASURED, made.run]
    done = subprocess.run(argv, env=made.environ, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) * 1024


def grow(made: FinishedRun, layers: int) -> int:
    """Blow the base model up to a real width: bytes of its weights."""
    config = json.loads((made.base / "config.json").read_text())
    config |= {"hidden_size": 1024, "moe_intermediate_size": 512, "num_experts": 16, "num_hidden_layers": layers}
    (made.base / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(made.base), dtype=torch.float32)
    for path in made.base.glob("model*"):
        path.unlink()
    model.save_pretrained(made.base, max_shard_size="20MB")
    write_adapter(made, read_run_file(made.folder.config).train, seed=3)
    return sum(path.stat().st_size for path in made.base.glob("*.safetensors"))


def test_memory_is_bounded_by_shards_not_by_the_model(tmp_path: Path) -> None:
    made = finished_run(tmp_path, "qwen3_moe")
    size = grow(made, layers=8)
    shard = max(path.stat().st_size for path in made.base.glob("*.safetensors"))
    fused = 16 * 2 * 512 * 1024 * 4
    bound = 2 * shard + fused
    assert size > 3 * bound
    peak = used(made)
    print(f"peak {peak / 2**20:.0f} MiB, bound {bound / 2**20:.0f}, model {size / 2**20:.0f}")
    assert shard / 2 < peak <= bound
