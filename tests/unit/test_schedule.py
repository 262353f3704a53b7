"""The learning rate and the points of evaluation, as functions of the step number."""

import itertools
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.schema.config import TrainConfig
from trainer.schema.loading import validated
from trainer.schema.schedule import Due, decay_steps, is_evaluation, learning_rate, steps_per_epoch, total_steps


def config(**changes: Any) -> TrainConfig:
    value: dict[str, Any] = {
        "model": {"path": "m"},
        "data": {"path": "d.json", "format": "chameleons"},
        "lora": {"rank": 8},
        "optim": {"lr": 1e-3, **changes.pop("optim", {})},
        **changes,
    }
    return validated(TrainConfig, value, "test")


def rates(train: TrainConfig, items: int) -> list[float]:
    decay = decay_steps(items, train)
    return [learning_rate(step, train.optim, decay) for step in range(total_steps(items, train))]


def test_linear_decays_to_its_floor_and_holds_it() -> None:
    optim = {"lr": 1e-3, "warmup_steps": 3, "schedule_epochs": 2, "min_lr_ratio": 0.1}
    got = rates(config(epochs=4, global_batch_size=10, optim=optim), 100)
    assert got[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert got[20:] == pytest.approx([1e-4] * 20)
    assert all(later <= earlier for earlier, later in itertools.pairwise(got[3:]))


def test_cosine_passes_half_of_the_way_in_the_middle() -> None:
    train = config(optim={"schedule": "cosine"})
    assert learning_rate(50, train.optim, 100) == pytest.approx(0.5e-3)


def test_constant_keeps_its_rate_after_a_warmup_by_ratio() -> None:
    train = config(optim={"schedule": "constant", "warmup_ratio": 0.1})
    got = [learning_rate(step, train.optim, 100) for step in range(100)]
    assert got[9] < 1e-3
    assert got[10:] == [1e-3] * 90


@given(
    items=st.integers(1, 500),
    batch=st.integers(1, 64),
    epochs=st.integers(1, 5),
    per_epoch=st.integers(1, 10),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
)
def test_every_epoch_is_evaluated(items: int, batch: int, epochs: int, per_epoch: int, schedule: str) -> None:
    train = config(
        epochs=epochs, global_batch_size=batch, evaluation={"per_epoch": per_epoch}, optim={"schedule": schedule}
    )
    steps, spe = total_steps(items, train), steps_per_epoch(items, train)
    due = [done for done in range(1, steps + 1) if is_evaluation(done, items, train)]
    assert set(range(spe, steps + 1, spe)) <= set(due)
    assert len(due) == epochs * min(per_epoch, spe)
    assert all(0 <= rate <= 1e-3 for rate in rates(train, items))


def test_max_steps_bounds_the_run_and_ends_with_an_evaluation() -> None:
    train = config(max_steps=7, global_batch_size=10)
    assert total_steps(1000, train) == 7
    assert is_evaluation(7, 1000, train)


def test_a_checkpoint_stays_due_until_it_begins() -> None:
    due = Due("4 steps")
    assert [due.asks(step) for step in (1, 3, 4, 5)] == [False, False, True, True]
    due.reset()
    assert [due.asks(step) for step in (6, 7, 8)] == [False, False, True]


def test_a_checkpoint_is_due_by_the_clock() -> None:
    due = Due("0.1 s")
    assert not due.asks(1)
    time.sleep(0.11)
    assert due.asks(2)
    due.reset()
    assert not due.asks(3)
