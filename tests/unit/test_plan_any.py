"""Whatever a config asks of a known model on a known card, its plan is made, and its numbers hang together."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.config.run_config import load
from kctl.plan.advice import advice
from kctl.plan.estimate import Estimate, estimate
from kctl.plan.lengths import told
from kctl.plan.numbers import as_data
from kctl.plan.page import screen, side_by_side
from kctl.plan.question import Question
from trainer.schema.gpus import GPUS, Machine
from trainer.schema.parameters import known_models, known_shape
from trainer.schema.row_bytes import held_bytes, row_plan

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def asked(
    model: str, machine: Machine, sets: list[str], items: int = 5_000, mean: float = 300, base: str = "lora_di3"
) -> Question:
    loaded = load(base, [f"train.model.path={model}", "cluster.nodes=1", "cluster.gpus_per_node=1", *sets])
    shape = known_shape(model)
    assert shape is not None
    return Question(loaded, shape, "here", machine, told(loaded.config.train, items, mean), None)


MACHINES = st.builds(
    Machine, st.sampled_from(list(GPUS.values())), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 8]), st.booleans()
)
FIELDS = {
    "train.lora.rank": st.integers(1, 512),
    "train.lora.expert_rank": st.sampled_from(["null", 1, 8, 64]),
    "train.lora.dropout": st.sampled_from([0, 0.05]),
    "train.lora.targets": st.sampled_from([ATTENTION, MLP, ["down_proj"], ["all-linear"]]),
    "train.global_batch_size": st.integers(64, 300),
    "train.epochs": st.integers(1, 50),
    "train.data.max_length": st.sampled_from([512, 1024, 32_768]),
    "train.precision": st.sampled_from(["bf16", "fp32"]),
    "train.ops.max_tokens": st.sampled_from(["auto", 128, 4096]),
    "train.ops.recompute": st.sampled_from(["auto", "none", "full"]),
}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(known_models())), MACHINES, st.fixed_dictionaries({}, optional=FIELDS))
def test_any_config_has_a_plan(model: str, machine: Machine, fields: dict[str, Any]) -> None:
    sets = [f"{name}={str(value).replace(chr(39), '')}" for name, value in fields.items()]
    found = estimate(asked(model, machine, sets))
    memory, time = found.memory, found.time
    assert memory is not None and all(value >= 0 for value in memory.parts.values())
    assert memory.row >= 1 and 0 <= memory.recomputed <= found.question.shape.layers
    assert memory.fits == (memory.problem == "")
    assert (time is None) == (found.question.train.precision == "fp32" or not memory.fits)
    assert time is None or (time.whole is not None and time.whole > time.step > 0)
    assert sum(found.trained.values()) * 4 == found.published
    assert screen(found, 60) and as_data(found)["advice"] == advice(found)


def plans(model: str, count: int, gpu: str = "h200-141", *sets: str, base: str = "lora_di3") -> Estimate:
    return estimate(asked(model, Machine(GPUS[gpu], 1, count), list(sets), base=base))


def needed(found: Estimate) -> float:
    assert found.memory is not None
    return found.memory.needed


def seconds(found: Estimate) -> float:
    assert found.time is not None
    return found.time.step


@pytest.mark.parametrize("model", ["Qwen3-30B-A3B", "Qwen3-8B", "Llama-3.1-8B", "Mixtral-8x7B-v0.1", "gemma-2-9b"])
def test_what_must_be_more_is_more(model: str) -> None:
    one, eight = plans(model, 1), plans(model, 8)
    assert seconds(eight) < seconds(one) < 8 * seconds(eight)
    assert needed(plans(model, 8, "h200-141", "train.lora.rank=128")) > needed(eight)
    slower = plans(model, 8, "h100-80").time
    assert slower is None or slower.step > seconds(eight)
    shape, train = one.question.shape, one.question.train
    held = sum(held_bytes(shape, train, 1).values())
    wide, narrow = (row_plan(shape, train, free * 2**30, 16_384, 1024) for free in (100, 3))
    assert wide.recomputed <= narrow.recomputed and wide.ceiling >= narrow.ceiling and held > 0


def test_rows_that_are_recomputed_take_longer_and_less() -> None:
    model, told_rows = "Qwen3-30B-A3B", "train.ops.max_tokens=8192"
    kept, again = (plans(model, 1, "h200-141", told_rows, f"train.ops.recompute={how}") for how in ("none", "full"))
    assert needed(kept) - needed(again) > 10 * 2**30
    assert 1.1 < seconds(again) / seconds(kept) < 1.6


def test_a_step_too_large_to_pack_is_counted_by_a_part() -> None:
    small, large = (asked("Qwen3-4B", Machine(GPUS["h200-141"], 1, 1), [f"train.global_batch_size={size}"], 10**7)
                    for size in (60_000, 600_000))  # fmt: skip
    assert seconds(estimate(large)) == pytest.approx(10 * seconds(estimate(small)), rel=0.05)


def test_side_by_side_has_a_column_for_each() -> None:
    several = [plans("Qwen3-4B", 1), replace(plans("Qwen3-8B", 1), time=None)]
    headers, rows = side_by_side(several)
    assert len(headers) == 3 and {len(row) for row in rows} == {3}
    assert ["s a step", "-"] in [[row[0], row[2]] for row in rows]
