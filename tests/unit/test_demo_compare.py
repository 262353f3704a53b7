"""The table that make demo ends with."""

import json
from pathlib import Path

import pytest

from demo import compare


def _finished_run(root: Path, after: float) -> Path:
    run = root / "runs" / "demo-0a1b2c3d"
    run.mkdir(parents=True)
    losses = {"loss": 3.5, "answer_loss": 4.5, "frame_loss": 2.0}
    result = {"phase": "Succeeded", "best_step": 20, "before": losses, "after": {**losses, "answer_loss": after}}
    (run / "result.json").write_text(json.dumps(result))
    prompt = "[RECENT_DIALOGUE]\nUser: How far is it to the mill?\n\n\nContinue as the character.\n"
    records = [
        {"step": step, "item": f"i{item}", "prompt_tail": prompt, "reference": "[ANSWER]\nSeven mile.\n[/ANSWER]"}
        | {"answer": f"answer of step {step} " * 9}
        for step in (0, 10, 20)
        for item in range(5)
    ]
    (run / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def _compare(root: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("KCTL_LOCAL", str(root))
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.argv", ["compare"])
    code = compare.main()
    out, err = capsys.readouterr()
    return f"{out}{err}exit {code}"


@pytest.mark.parametrize("width", [80, 48])
def test_the_end_table(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _finished_run(tmp_path, after=4.05)
    shown = _compare(tmp_path, width, monkeypatch, capsys)
    assert "-10.0%" in shown and "4.500" in shown and "4.050" in shown
    assert shown.count("> How far is it to the mill?") == 3 and "the play: Seven mile." in shown
    assert "answer of step 0" in shown and "answer of step 20" in shown and "step 10" not in shown
    assert "[ANSWER]" not in shown and f"{run}/adapter" in shown and shown.endswith("exit 0")
    assert all(len(line) <= width for line in shown.splitlines() if str(run) not in line)


def test_too_small_a_fall_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _finished_run(tmp_path, after=4.4)
    shown = _compare(tmp_path, 80, monkeypatch, capsys)
    assert shown.endswith("error: the answers' own loss fell by 2.2%, at least 8% expected\nexit 1")


def test_without_a_run_there_is_nothing_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = _compare(tmp_path, 80, monkeypatch, capsys)
    assert "no demo run has succeeded here; make demo trains one" in shown and shown.endswith("exit 1")
