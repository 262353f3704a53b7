"""kctl validate and the error boundary: exit codes, one line an error, data and messages kept apart."""

from pathlib import Path

import pytest

from kctl.cli import run
from kctl.config.resolve import shipped_configs


def test_every_shipped_config_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted(shipped_configs().glob("*.yaml"))
    assert run(["validate", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(paths)
    assert all(line.startswith(path.stem.replace("_", "-")) for line, path in zip(lines, paths, strict=True))


def test_it_says_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "lora_di3", "--set", "cluster.nodes=2"]) == 0
    out = capsys.readouterr().out
    assert (
        "  16 ranks  64 items a step (4 a rank)  50 epochs  368.1 M trained (attention 53.5 M, experts 314.6 M)" in out
    )
    assert run(["validate", "full_di3", "demo", "--set", "train.model.path=Qwen3-30B-A3B"]) == 0
    full, demo = capsys.readouterr().out.splitlines()
    assert full.endswith("30,532.1 M trained (every parameter)")
    assert "at most 22 steps" in demo
    assert run(["validate", "demo", "--set", "train.model.path=mine"]) == 0
    assert capsys.readouterr().out.endswith("this model is not known to kctl\n")


def test_every_file_is_checked_and_the_first_error_is_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("extends: lora_di3\ntrain: {lora: {rank: 0}}\n")
    assert run(["validate", str(bad), "nothing-like-it", "demo"]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1 and captured.out.startswith("demo-")
    assert f"error: {bad}: train.lora.rank: must be >= 1, got 0\n" in captured.err
    assert "error: no config 'nothing-like-it'; there are:" in captured.err
    assert run(["validate", "nothing-like-it", str(bad)]) == 4


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["render", "no_such_config"], 4),
        (["render", "lora_di3", "--set", "train.lora.rank=0"], 2),
        (["render", "lora_di3", "--set", "nonsense"], 2),
        (["render"], 2),
        (["no-such-verb"], 2),
        (["render", "--no-such-option"], 2),
        (["--version"], 0),
        (["--help"], 0),
        (["schema"], 0),
    ],
)
def test_exit_codes(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv) == code
    captured = capsys.readouterr()
    assert bool(captured.out) == (code == 0)
    assert "Traceback" not in captured.err


def test_an_error_is_one_line_and_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "lora_di3", "--set", "train.lora.rank=0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run(["render", "lora_di3", "--set", "train.lora.rank=0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_what_nobody_thought_of_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kctl.config.run_config.load", lambda *_: 1 / 0)
    assert run(["render", "lora_di3"]) == 1
    assert capsys.readouterr().err == (
        "error: internal error ZeroDivisionError: division by zero, run again with --debug\n"
    )
    monkeypatch.setattr("kctl.config.run_config.load", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(["render", "lora_di3"]) == 130
