"""What a run says to programs: whatever the trainer writes is read back as it was meant."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainer.pod.outcome import Outcome
from trainer.pod.result import fitted, message_of
from trainer.schema.contract import TERMINATION_LIMIT, ExitCode
from trainer.schema.messages import (
    Message,
    Step,
    as_rank,
    attempt_line,
    number,
    parse_attempt_line,
    parse_message,
    parse_step_line,
    rank_of,
    step_line,
)

numbers = st.floats(allow_nan=False, width=32)
whole = st.integers(0, 10**12 - 1)


def test_a_step_line_as_the_trainer_writes_it() -> None:
    text = "step=100/1000 loss=1.2345 lr=2.0e-04 grad_norm=0.81 tokens_per_s=5210 mem_gib=31.2 eta_s=5400"
    assert parse_step_line(text) == Step(100, 1000, 1.2345, 5400.0, 5210.0, 31.2)
    assert parse_step_line("[rank0]: " + text) == parse_step_line(text)
    assert parse_step_line("step=1/2 loss=nan lr=1") is not None
    for other in ("", "last_step=1/2 loss=1", "step=1/2 lr=1", "step=1 loss=2", "step=1/2 loss=one", "eval loss=2.0"):
        assert parse_step_line(other) is None


@given(whole, whole, numbers, st.lists(numbers, min_size=5, max_size=5))
def test_every_step_line_is_read_back(step: int, steps: int, loss: float, rest: list[float]) -> None:
    names = ("lr", "grad_norm", "tokens_per_s", "mem_gib", "eta_s")
    text = step_line({"step": step, "steps": steps, "loss": loss, **dict(zip(names, rest, strict=True))})
    read = parse_step_line(text)
    assert read is not None and (read.step, read.steps) == (step, steps)
    assert read.loss == (float(f"{loss:.4f}") if math.isfinite(loss) else loss)
    assert read.eta_s == (float(f"{rest[-1]:.0f}") if math.isfinite(rest[-1]) else rest[-1])


@given(st.integers(1, 999_999), st.integers(0))
def test_every_attempt_line_is_read_back(attempt: int, newest: int) -> None:
    assert parse_attempt_line(attempt_line(attempt, "lora-di3-0123abcd", newest)) == attempt
    assert parse_attempt_line(f"step={attempt}/{newest} loss=1") is None


@given(st.sampled_from(ExitCode), st.text(max_size=500), whole, st.integers(1, 10**6))
def test_every_termination_message_is_read_back(code: ExitCode, sentence: str, step: int, attempt: int) -> None:
    outcome = Outcome(code, sentence, progress={"step": step, "steps": step, "loss": 1.5}, attempt=attempt)
    read = parse_message(fitted(message_of(outcome), TERMINATION_LIMIT).decode())
    assert (read.code, read.step, read.steps, read.loss, read.attempt) == (code, step, step, 1.5, attempt)
    assert read.sentence == (" ".join(sentence.split()) or None)


@given(st.text() | st.text(alphabet="step=/0123456789 losn.-e"))
def test_any_line_is_read_without_an_error(text: str) -> None:
    parse_step_line(text)
    parse_step_line("step=1/2 loss=" + text)


keys = st.sampled_from(list(Message.__dataclass_fields__)) | st.text(max_size=5)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = leaves | st.dictionaries(keys, leaves | st.lists(leaves, max_size=2), max_size=6)


@given(json_values)
def test_any_json_message_is_read_into_right_types(value: Any) -> None:
    read = parse_message(json.dumps(value))
    for name, kind in (("step", int), ("steps", int), ("code", int), ("loss", float), ("sentence", str)):
        found = getattr(read, name)
        assert found is None or type(found) is kind


def test_numbers_without_measure_are_left_out() -> None:
    read = parse_message(json.dumps({"step": 10**400, "loss": 10**400, "code": 0, "attempt": -(10**15)}))
    assert read == Message(code=0)
    assert number(10**400) is number(-(10**400)) is number(1e100) is number(math.inf) is number(math.nan) is None
    assert number(True) is number("1") is None
    assert number(3) == 3.0 and number(-9e99) == -9e99


@given(st.text())
def test_any_text_message_is_read(text: str) -> None:
    sentence = parse_message(text).sentence
    assert sentence is None or sentence


def test_deep_nesting_is_a_sentence() -> None:
    assert parse_message("[" * 100_000).sentence


@given(st.text(), st.integers(0, 999_999))
def test_every_line_of_a_rank_says_so(text: str, rank: int) -> None:
    lines = as_rank(text, rank).splitlines()
    assert len(lines) == len(text.splitlines())
    assert rank == 0 or all(rank_of(line) == rank for line in lines)
    assert rank_of("step=1/2 loss=1") == rank_of("[rank1]: a library's own") == 0
