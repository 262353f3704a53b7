"""The outcome table: every combination of what two ranks wrote and what the launcher saw."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.pod import outcome
from trainer.pod.outcome import PREEMPTED, TIME_LIMIT, Ending, Outcome, decide, read_outcomes
from trainer.pod.result import done_already, fitted, message_of, phase_of, write_termination_message
from trainer.schema.contract import ENV_OUTCOMES, TERMINATION_LIMIT, ExitCode, Phase, RunFolder

WORDS = [None, *ExitCode]
CASES = list(itertools.product(WORDS, WORDS, [None, PREEMPTED, TIME_LIMIT], [0, 1, -9], [(0, 1), (0, 2), (1, 2)]))


def expected(words: dict[int, ExitCode], ending: Ending) -> ExitCode:
    """The rules as a person would say them, one sentence each."""
    codes = list(words.values())
    if ExitCode.OWNERSHIP_LOST in codes:
        return ExitCode.OWNERSHIP_LOST
    if permanent := [code for code in codes if 0 < code < 128]:
        return permanent[0]
    if ending.node == 0 and words.get(0) == ExitCode.SUCCEEDED:
        return ExitCode.SUCCEEDED
    if ending.node > 0 and not words and ending.status == 0 and ending.asked is None:
        return ExitCode.SUCCEEDED
    if ending.asked == TIME_LIMIT:
        return ExitCode.TIME_LIMIT
    if ending.asked == PREEMPTED or ExitCode.PREEMPTED in codes:
        return ExitCode.PREEMPTED
    if ExitCode.HANGING in codes:
        return ExitCode.HANGING
    if ExitCode.DEVICE in codes:
        return ExitCode.DEVICE
    if ExitCode.UNKNOWN in codes or ending.nodes == 1:
        return ExitCode.UNKNOWN
    if ExitCode.RENDEZVOUS in codes:
        return ExitCode.RENDEZVOUS
    return ExitCode.PEER_LOST if ExitCode.PEER_LOST in codes else ExitCode.UNKNOWN


def test_every_combination() -> None:
    for first, second, asked, status, (node, nodes) in CASES:
        said = {rank: code for rank, code in enumerate((first, second)) if code is not None}
        words = {rank: Outcome(code, f"rank {rank} says {code.name}") for rank, code in said.items()}
        ending = Ending(status, asked, node, nodes)
        found = decide(words, ending, trained=False)
        assert found.code is expected(said, ending), (first, second, ending)
        assert found.sentence
        if found.code.permanent and found.code is not ExitCode.TIME_LIMIT:
            assert found in words.values()


def test_peers_that_never_joined_are_told_from_peers_that_left() -> None:
    unjoined = Ending(1, nodes=2, unjoined=True)
    assert decide({}, unjoined, trained=False).code is ExitCode.RENDEZVOUS
    assert decide({}, unjoined, trained=True).code is ExitCode.UNKNOWN
    left = {0: Outcome(ExitCode.RENDEZVOUS, "the store is gone")}
    assert decide(left, Ending(1, nodes=2), trained=True).code is ExitCode.PEER_LOST
    assert decide(left, Ending(1, nodes=1), trained=False).sentence == outcome.SILENT


def test_a_rank_that_was_killed_is_said_to_be_silent() -> None:
    found = decide({1: Outcome(ExitCode.PEER_LOST, "connection closed by peer")}, Ending(1), trained=True)
    assert found.code is ExitCode.UNKNOWN and "out of host memory" in found.sentence


def test_ranks_write_and_the_launcher_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_OUTCOMES, str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    outcome.report(5, "the loss is no number")
    outcome.progress(12, 100, float("inf"), 2.5)
    outcome.success({"step": 100, "before": {"loss": float("nan")}, "best_step": None})
    words, progress = read_outcomes(tmp_path)
    assert words[3] == Outcome(ExitCode.DIVERGED, "the loss is no number")
    assert words[0].summary == {"step": 100, "before": {"loss": None}, "best_step": None}
    assert progress == {"step": 12, "steps": 100, "loss": None, "eval_loss": 2.5}
    monkeypatch.delenv(ENV_OUTCOMES)
    outcome.report(5, "by hand there is nobody to tell")


def test_whatever_stands_in_the_files(tmp_path: Path) -> None:
    anything = st.none() | st.integers() | st.text(max_size=3) | st.floats() | st.booleans() | st.just([1])
    value = st.fixed_dictionaries({}, optional=dict.fromkeys(["code", "sentence", "step", "summary"], anything))

    @settings(max_examples=100)
    @given(content=st.binary(max_size=20) | st.builds(json.dumps, value | anything).map(str.encode))
    def check(content: bytes) -> None:
        (tmp_path / "rank-0.json").write_bytes(content)
        (tmp_path / "progress.json").write_bytes(content)
        words, progress = read_outcomes(tmp_path)
        found = decide(words, Ending(1), bool(progress))
        json.dumps(message_of(found), allow_nan=False)
        assert found.code in ExitCode

    check()


@settings(max_examples=200)
@given(sentence=st.text(st.characters(exclude_categories=[]), max_size=60), times=st.integers(0, 200))
def test_the_termination_message_fits_at_a_characters_edge(sentence: str, times: int) -> None:
    long = sentence * times
    message = {"phase": "Failed", "step": 3, "loss": 1.5, "code": 2, "sentence": long}
    encoded = fitted(message, TERMINATION_LIMIT)
    assert len(encoded) <= TERMINATION_LIMIT
    read = json.loads(encoded.decode("utf-8"))
    assert {**read, "sentence": ""} == {**message, "sentence": ""}
    clean = long.encode("utf-8", errors="replace").decode()
    if read["sentence"] != clean:
        assert read["sentence"].endswith("...") and clean.startswith(read["sentence"][:-3])
        assert len(encoded) > TERMINATION_LIMIT - 16, "no more is cut than needed"


def test_every_code_has_a_phase() -> None:
    phases = {code: phase_of(code) for code in ExitCode}
    assert phases.pop(ExitCode.SUCCEEDED) is Phase.SUCCEEDED
    assert {code for code, phase in phases.items() if phase is Phase.FAILED} == {code for code in phases if code < 128}
    assert {phase for code, phase in phases.items() if code >= 128} == {Phase.RESTARTING}


def test_a_termination_log_that_cannot_be_written_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_termination_message(Outcome(ExitCode.SUCCEEDED, "done"), str(tmp_path / "no" / "folder"))
    assert "cannot be written: No such file or directory" in capsys.readouterr().out


def test_done_needs_the_result_and_the_adapter(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert done_already(folder, "r") is None
    folder.result.write_text('{"phase": "Succeeded", "step": 9}')
    assert done_already(folder, "r") is None
    folder.adapter.mkdir()
    (folder.adapter / "MANIFEST.json").write_text("{}")
    done = done_already(folder, "r")
    assert done is not None and done.progress["step"] == 9 and "kctl pull r" in done.sentence
    for wrong in ("", "[]", '{"phase": "Failed"}', "{"):
        folder.result.write_text(wrong)
        assert done_already(folder, "r") is None
