"""A few steps of the benchmark's tiny model on this CPU: `as_on_a_gpu.py plain` or `fast`; prints the figures as JSON.

fast makes the choices that a GPU would: our operators for attention and experts, here in their plain versions, and
compiled layers.
"""

import json
import sys
from typing import Any

import torch

from trainer import startup
from trainer.bench import ours
from trainer.bench.work import Row
from trainer.fast import attention
from trainer.fast.experts import use_our_experts
from trainer.fast.layers import compile_layers

ROW = Row("any", model="tiny", items=6, lengths="uniform", rank=4, expert_rank=2, steps=5)


def choose_as_a_gpu_would() -> None:
    """Whatever asks for a GPU is told that there is one; who compiles has a backend that is fast to make."""
    attention._fits = lambda *_: True
    attention.chosen = lambda: attention.FLASH  # type: ignore[assignment]
    prepared = ours.prepare_model

    def prepare(model: Any, train: Any, device: torch.device) -> Any:
        use_our_experts(prepared(model, train, device))
        return model

    ours.prepare_model = prepare
    startup.compiled = lambda train, model, ranks: compile_layers(
        model, ranks.device, lambda: startup.autocast(train, ranks.device), backend="aot_eager"
    )


if __name__ == "__main__":
    if sys.argv[1] == "fast":
        choose_as_a_gpu_would()
    print(json.dumps(ours.measure(ROW)))
