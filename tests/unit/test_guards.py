"""Decisions on steps and evaluations that went wrong."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer import guards
from trainer.checkpoints import Progress
from trainer.guards import Spikes, counted, judged_rise, to_leave_out
from trainer.hang import allowed
from trainer.schema.ops import Ops


@given(kinds=st.lists(st.sampled_from(["good", "bad", "empty"]), max_size=60))
def test_what_is_counted(kinds: list[str]) -> None:
    progress = Progress()
    for step, kind in enumerate(kinds, 1):
        progress = counted(Progress(**{**vars(progress), "step": step}), kind != "bad", kind != "empty")
    assert progress.skipped == kinds.count("bad")
    assert progress.updates == kinds.count("good")
    bad = [step for step, kind in enumerate(kinds, 1) if kind == "bad"]
    good = max((step for step, kind in enumerate(kinds, 1) if kind == "good"), default=0)
    assert progress.bad == [step for step in bad if step > good]


def test_the_step_before_the_bad_ones_is_left_out_where_its_update_is_undone() -> None:
    def items_of(step: int) -> list[int]:
        return [10 * step, 10 * step + 1]

    assert to_leave_out([7, 8], 5, items_of) == [60, 61, 70, 71, 80, 81]
    assert to_leave_out([7, 8], 6, items_of) == [70, 71, 80, 81]
    assert to_leave_out([1], 0, items_of) == [10, 11]


def test_a_spike_is_said_once_and_not_too_often() -> None:
    spikes, rng, said = Spikes(), random.Random(1), {}
    for step in range(1, 400):
        loss = 1.5 + rng.uniform(-0.3, 0.3)
        norm = rng.uniform(0.5, 2.0)
        if step in (8, 100, 101, 102, 120, 300):
            loss = 9.0
        if step == 250:
            norm = 50.0
        said[step] = spikes.lines(step, loss, norm)
    assert [step for step, lines in said.items() if lines] == [100, 250, 300], "8: too early; 120: within QUIET"
    assert said[100][0].startswith("spike at step 100: loss=9, the median of the last 64 steps is 1.")
    assert said[250][0].startswith("spike at step 250: grad_norm=50, the median")


def test_a_loss_that_falls_or_is_nearly_nothing_is_no_spike() -> None:
    spikes = Spikes()
    assert not any(spikes.lines(step, 3 * math.exp(-step / 30) + 0.04 * (step % 2), 1.0) for step in range(1, 500))


def test_a_new_level_is_no_spike_for_ever() -> None:
    spikes = Spikes()
    said = [step for step in range(1, 1000) if spikes.lines(step, 1.0 if step < 500 else 4.0, 1.0)]
    assert said == [500]


def test_an_eval_loss_that_rises_twice_in_a_row_is_said_once() -> None:
    progress, said = Progress(best_loss=1.0, best_step=10), []
    for step, loss in enumerate([1.2, 1.0, 1.1, 1.05, 1.1, 1.2, 1.3, 1.0, 1.1, 1.2]):
        progress, line = judged_rise(Progress(**{**vars(progress), "step": step}), loss)
        said.append(line)
    assert [step for step, line in enumerate(said) if line] == [5, 9]
    assert said[5] == (
        "the held-out loss rises: 1.2000 at step 5, 1.1000 before, lowest 1.0000 at step 10; "
        "the adapter of that step is kept as the best"
    )


def test_lists_are_cut() -> None:
    assert guards.some(["a", "b"]) == "a, b" and guards.some(list("abcde"), 3) == "a, b, c and 2 more"
    assert guards.spell([4]) == "step 4" and guards.spell([4, 5, 6]) == "steps 4 to 6"


@given(durations=st.lists(st.floats(0, 1e4), max_size=40), least=st.floats(0, 1e4))
def test_how_long_something_may_take(durations: list[float], least: float) -> None:
    seconds = allowed(durations, least)
    assert seconds >= least
    assert durations or seconds >= 3600, "the first of its kind"
    assert not durations or seconds >= 20 * statistics.median(durations)
    assert not durations or seconds <= max(least, 20 * max(durations))


@pytest.mark.parametrize("text", ["3 steps", "soon", "0 s", "10"])
def test_a_limit_for_hanging_is_a_time(text: str) -> None:
    with pytest.raises(ValidationError, match="write a"):
        Ops(hang_after=text)
