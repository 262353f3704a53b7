"""The books: which attempts count, when there are no more, how long to wait, how much time is used."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import RunsFolderError
from trainer.pod import attempts
from trainer.pod.attempts import Attempt
from trainer.schema.contract import ExitCode, RunFolder

RETRYABLE = [code for code in ExitCode if code >= 128]
ENDS = st.sampled_from([*ExitCode, None])


def history(ends: list[tuple[int | None, int]]) -> list[Attempt]:
    """Attempts with these codes; the second number is how many steps the checkpoint moved before each."""
    steps = itertools.accumulate(moved for _, moved in ends)
    return [
        Attempt(number, f"pod-{number}", step, code)
        for number, ((code, _), step) in enumerate(zip(ends, steps, strict=True), 1)
    ]


@given(ends=st.lists(st.tuples(ENDS, st.sampled_from([0, 0, 0, 5])), max_size=12), moved=st.sampled_from([0, 5]))
def test_used_up_as_a_plain_simulation_says(ends: list[tuple[int | None, int]], moved: int) -> None:
    """Walk through time with one counter: up at a counted end, zero at a new checkpoint or a permanent end."""
    fruitless = 0
    for code, advanced in ends:
        if advanced:
            fruitless = 0
        if code is not None and 0 < code < 128:
            fruitless = 0
        elif code not in (143, 138, 153):
            fruitless += 1
    if moved:
        fruitless = 0
    books = history(ends)
    newest = (books[-1].started_step if books else 0) + moved
    assert attempts.used_up(books, newest) == (fruitless >= 3)


@given(ends=st.lists(ENDS, max_size=12))
def test_backoff_doubles_within_a_streak(ends: list[int | None]) -> None:
    pause = attempts.backoff(history([(code, 0) for code in ends]))
    assert pause in (0, 10, 20, 40, 80, 160, 320)
    last = ends[-1] if ends else 143
    assert (pause == 0) == (last == 143 or (last is not None and 0 < last < 128))


def test_backoff_in_full() -> None:
    crash = (int(ExitCode.UNKNOWN), 0)
    assert [attempts.backoff(history([crash] * count)) for count in range(8)] == [0, 10, 20, 40, 80, 160, 320, 320]
    assert attempts.backoff(history([crash, crash, (143, 0)])) == 0
    assert attempts.backoff(history([crash, crash, (143, 0), crash])) == 10
    assert attempts.backoff(history([crash, crash, (8, 0)])) == 0
    assert attempts.backoff(history([(153, 0)] * 5)) == 10


@pytest.mark.parametrize("code", [143, 138, 153])
def test_ends_that_are_nobodys_fault_never_use_attempts_up(code: int) -> None:
    assert not attempts.used_up(history([(code, 0)] * 50), 0)


@pytest.mark.parametrize("code", [*(code for code in RETRYABLE if code not in attempts.UNCOUNTED), None])
def test_three_crashes_without_a_checkpoint_do(code: int | None) -> None:
    assert not attempts.used_up(history([(code, 0)] * 2), 0)
    assert attempts.used_up(history([(code, 0)] * 3), 0)
    assert not attempts.used_up(history([(code, 0)] * 3), 1)
    assert not attempts.used_up(history([(code, 0), (code, 0), (8, 0), (code, 0)]), 0), "a closed series counts no more"


def test_a_checkpoint_that_was_lost_is_no_progress() -> None:
    assert attempts.used_up([Attempt(number, "p", 100, 152) for number in (1, 2, 3)], newest=50)


def test_time_is_counted_over_the_series() -> None:
    books = [Attempt(1, "p", 0, 9, "", 100.0), Attempt(2, "p", 0, 143, "", 7.0), Attempt(3, "p", 0, None, "", 5.0)]
    assert attempts.spent(books) == 12.0
    assert attempts.with_end(books, 152, "x", 9.04)[-1] == Attempt(3, "p", 0, 152, "x", 9.0)


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert attempts.newest_checkpoint(folder) == 0
    for name in ("step-000100", "step-1234567", ".step-9999999.tmp", ".step-8888888.old", "step-x", "other"):
        (folder.checkpoints / name).mkdir(parents=True)
    assert attempts.newest_checkpoint(folder) == 1_234_567


def test_books_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    wrong = [b"{", b"[1]", b'[{"attempt": 1}]', b"[" * 100_000, b"null", b"\xff"]
    typed = b'[{"attempt": 1, "pod_uid": "p", "started_step": "0", "code": null, "sentence": "", "seconds": 1}]'

    @settings(max_examples=60)
    @given(content=st.binary(max_size=40) | st.sampled_from([*wrong, typed]))
    def check(content: bytes) -> None:
        folder.attempts.write_bytes(content)
        try:
            assert attempts.read_attempts(folder) == []
        except RunsFolderError as error:
            assert "attempts.json: cannot be read" in str(error) and "submit again" in str(error)
        else:
            assert content not in wrong

    check()
