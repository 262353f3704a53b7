"""Which rows and recomputed layers are chosen for the memory that is free, and which runs have no chance."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.tiny import tiny_dense, train_config
from trainer import startup
from trainer.distributed import Ranks
from trainer.errors import ConfigError
from trainer.fast.layers import recompute_first
from trainer.schema.memory import ROW, full_run
from trainer.schema.memory_plan import CEILINGS, MOMENTARY, Costs, choose, momentary_bytes
from trainer.schema.parameters import shape_of

QWEN3_30B = Costs(2e8, 3.3e6, 3.4e5, 48)
"""About what one H200 showed: 26 GiB for a row of 8,192 tokens."""
GIB = 2.0**30


@pytest.mark.parametrize(
    ("free", "tokens", "ceiling", "recomputed"),
    [
        (75, 23_680, 16_384, False),
        (30, 23_680, 8_192, False),
        (14, 23_680, 4_096, False),
        (12, 23_680, 3_072, False),
        (9, 23_680, 3_072, True),
        (30, 2_944, 2_944, False),
        (4, 23_680, 3_072, True),
        (0.1, 23_680, 1_024, True),
    ],
)
def test_the_fastest_that_fits(free: float, tokens: int, ceiling: int, recomputed: bool) -> None:
    plan = choose(QWEN3_30B, free * GIB, tokens, 1_024)
    assert (plan.ceiling, plan.recomputed > 0) == (ceiling, recomputed)
    assert plan.recomputed == 48 or plan.peak(plan.ceiling) <= free * GIB


@given(
    st.floats(0, 1e9), st.floats(1e3, 1e7), st.floats(0, 1), st.integers(1, 96), st.floats(0, 3e11),
    st.integers(128, 50_000), st.integers(1, 40_000),
)  # fmt: skip
def test_every_plan_fits_or_is_the_smallest(
    fixed: float, kept: float, share: float, layers: int, free: float, tokens: int, longest: int
) -> None:
    costs = Costs(fixed, kept, kept * share, layers)
    plan = choose(costs, free, tokens, longest)
    assert plan.peak(plan.ceiling) == costs.peak(plan.ceiling, plan.recomputed)
    assert longest <= plan.ceiling <= max(longest, CEILINGS[0]) and 0 <= plan.recomputed <= layers
    assert plan.peak(plan.ceiling) <= free or (plan.ceiling, plan.recomputed) == (longest, layers)
    more = choose(costs, free * 2 + 1, tokens, longest)
    assert more.recomputed == 0 or more.ceiling >= plan.ceiling


def test_what_a_step_takes_is_a_ranks_share_and_a_tensor_at_its_edge() -> None:
    trained = 400_000_000
    assert momentary_bytes(trained, 1) == MOMENTARY * trained
    assert momentary_bytes(trained, 8) == MOMENTARY * (trained / 8 + 25_000_000)
    assert momentary_bytes(1_000_000, 8) == MOMENTARY * 1_000_000


def test_only_the_first_layers_are_recomputed(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_dense(tmp_path, family="qwen3", vocabulary=300)).train()
    ran: list[int] = []
    for place, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, place=place: ran.append(place))
    for count, expected in ((1, [0, 1, 0]), (0, [0, 1]), (2, [0, 1, 1, 0])):
        recompute_first(model, count)
        ran.clear()
        model(input_ids=torch.arange(9)[None], use_cache=False).logits.sum().backward()
        assert ran == expected


def test_a_full_run_that_cannot_fit_is_refused_by_the_gpu_that_it_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_dense(tmp_path, family="qwen3", vocabulary=300)
    data: Any = type("Items", (), {"__len__": lambda self: 2, "length": lambda self, item: 100 + item})()
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.5)
    full = train_config(method="full", precision="bf16")
    run = full_run(shape_of(json.loads((base / "config.json").read_text())), full, ROW)
    need = replace(run, units=0).on_gpu(1)
    memory = SimpleNamespace(total_memory=need / 0.48 + 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    gpu = Ranks(0, 1, torch.device("cuda"))
    startup.check_full(full, base, gpu, data)
    memory.total_memory = need / 0.48 - 100
    with pytest.raises(ConfigError, match=r"on each of 1 GPUs, of whose 0\.\d GiB 0\.\d can be used; what"):
        startup.check_full(full, base, gpu, data)
    rows = train_config(method="full", precision="bf16", ops={"max_tokens": 1024})
    startup.check_full(rows, base, gpu, data)
    startup.check_full(train_config(method="full", ops={"max_tokens": 1024, "offload": True}), base, gpu, data)
    startup.check_full(train_config(), base, gpu, data)
    startup.check_full(full, base, Ranks(0, 1, torch.device("cpu")), data)
