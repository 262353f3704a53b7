"""Replayed rows beside plain ones on a real GPU, by hand: `python -m tests.gpu.replays`.

Qwen3-30B-A3B with few layers, adapters on attention and experts, without and with dropout, without and with a layer
recomputed: hidden states and gradients, the same masks in a recording's first row as in its later ones and in plain
rows. Exit 1 where they differ by more than two plain runs may.
"""

import os
import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.gpu.operators import CUDA, check, relative, status
from trainer.bench.ours import run_config
from trainer.bench.work import Row, model_config
from trainer.fast.attention import packed_inputs, register
from trainer.fast.layers import compile_layers, graphs, recompute_first, warm_up
from trainer.fast.loss import forward_hidden
from trainer.fast.replays import Replays
from trainer.flat import Flat, flatten
from trainer.lora import add_adapters
from trainer.model import parameter_groups, prepare_model
from trainer.run import autocast

ROWS = ([300, 200, 140], [64] * 20, [128], [300, 200, 140], [700, 68])
LIMIT = 5e-3
"""Two plain runs differed by up to 3.3e-3 on an H200: attention's backward adds in any order."""


def adapted(dropout: float) -> tuple[Any, Any]:
    """The model with adapters that are not zero, and its configuration."""
    train = run_config(Row("replays", expert_rank=8, dropout=dropout))
    register("auto")
    config = model_config("qwen3-30b")
    config.num_hidden_layers = 4
    torch.manual_seed(0)
    with CUDA:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = add_adapters(prepare_model(model, train, CUDA), train)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.normal_(std=0.02)
    return model, train


def results(
    forward: Any, ids: Tensor, inputs: dict[str, Any], given: Tensor, flats: list[Flat], within: Any
) -> list[Tensor]:
    """Hidden states and all gradients of one row; its graph ends with the function, as in a step."""
    for flat in flats:
        flat.clear_gradient()
    torch.manual_seed(5)
    with within():
        hidden = forward(ids, inputs)
    hidden.backward(given)
    return [hidden.detach().clone(), *(flat.gradient.clone() for flat in flats)]


def compare(dropout: float, recomputed: int) -> None:
    model, train = adapted(dropout)
    within = partial(autocast, train, CUDA)
    print(f"== dropout {dropout}, {recomputed} layers recomputed: {compile_layers(model, CUDA, within, recomputed)}")
    recompute_first(model, recomputed)
    warm_up(model, CUDA, within)
    _, flats = flatten(parameter_groups(model, train), {one: name for name, one in model.named_parameters()})
    replays = Replays(model, within)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for flat in flats:
        flat.clear_gradient()
    replays.begin(adapters, 1024, CUDA, print)
    check("rows are not replayed", float(not replays.on), 0)
    model.train()
    before = graphs()
    for lengths in ROWS:
        ids, inputs = torch.randint(0, 1000, (1, sum(lengths)), device=CUDA), packed_inputs(lengths, CUDA)
        given = torch.randn(sum(lengths), 2048, device=CUDA).bfloat16()
        plain, replayed = partial(forward_hidden, model), replays.hidden
        found = [results(one, ids, inputs, given, flats, within) for one in (plain, plain, replayed, replayed)]
        for name, one, other in (("plain again", 1, 0), ("replayed", 2, 0), ("replayed again", 3, 2)):
            worst = max(relative(a, b) for a, b in zip(found[one], found[other], strict=True))
            check(f"{len(lengths)} items, {sum(lengths)} tokens, {name}", worst, LIMIT)
    check("graphs compiled after the warm-up", graphs() - before, 0)


if __name__ == "__main__":
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29533",
    }
    for dropout, recomputed in ((0.0, 0), (0.05, 0), (0.0, 2)):
        compare(dropout, recomputed)
    sys.exit(status())
