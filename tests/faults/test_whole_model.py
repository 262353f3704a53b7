"""Loading and saving for full-parameter training: no rank holds a copy of the model, and nothing is lost on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.faults import whole_model
from tests.training.tiny import config_of
from trainer.adapters import verify_adapter

WIDE = {"hidden_size": 1024, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 2048}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"num_hidden_layers": 10, "intermediate_size": 3072, "tie_word_embeddings": False},
    "qwen3_moe": {"num_hidden_layers": 8, "moe_intermediate_size": 512, "num_experts": 16},
}
SLACK = 32 << 20
"""For what gloo and the allocator keep."""


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.mark.parametrize("family", SHAPES)
def test_no_rank_holds_the_model(family: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny = config_of(family)
    config = type(tiny)(**{**tiny.to_dict(), "layer_types": None, **WIDE, **SHAPES[family]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(base, max_shard_size="48MB")
    (base / "tokenizer.json").write_text("{}")
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    largest = max(parameter.nbytes for parameter in model.parameters())
    layer = sum(parameter.nbytes for parameter in model.model.layers[0].parameters())
    del model
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # What is measured is what we ask for, not what glibc keeps between two tensors that it gave out
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(256 << 10)}
    subprocess.run([*argv, whole_model.__file__, str(base), str(tmp_path)], env=environ, check=True)

    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    load, save = size // 2 + 4 * largest + SLACK, whole_model.FILE + 3 * layer + SLACK
    print(f"{family}: {size >> 20} MiB, bounds {load >> 20} {save >> 20}", *ranks)
    assert load < size and save < size
    for rank in ranks:
        assert size // 3 < rank["load"] <= load
        assert rank["save"] <= save

    model = AutoModelForCausalLM.from_pretrained(base)
    values = load_file(tmp_path / "values.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(values.pop(name), parameter), name
    assert not values
    verify_adapter(tmp_path / "model")
    before, after = tensors_of(base), tensors_of(tmp_path / "model")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 3
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert saved.dtype == torch.bfloat16
    for name, parameter in saved.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name
