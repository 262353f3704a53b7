"""`kctl init`, asked on a terminal and by flags: it writes a config that kctl takes, and overwrites nothing."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kctl.cli import run as kctl
from kctl.config.run_config import load

KCTL = [sys.executable, "-m", "kctl", "init"]
MODEL, DATA = "train.model.path=Qwen3-8B", "train.data.path=plays/train.jsonl"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCTL_CONFIGS", raising=False)
    return tmp_path


def asked(answers: str, *words: str) -> subprocess.CompletedProcess[str]:
    """kctl init at a terminal where somebody types these lines."""
    terminal, stdin = pty.openpty()
    os.write(terminal, answers.encode())
    try:
        return subprocess.run([*KCTL, *words], stdin=stdin, capture_output=True, text=True, timeout=60)
    finally:
        os.close(stdin)
        os.close(terminal)


def test_by_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert kctl(["init", "My_Run", "--set", MODEL, "--set", DATA, "--set", "train.epochs=3"]) == 0
    told = capsys.readouterr()
    assert told.out == "configs/my_run.yaml\nconfigs/clusters/default.yaml\n"
    assert "next: kctl validate my_run" in told.err and "say what your cluster looks like" in told.err
    loaded = load("my_run", [])
    train = loaded.config.train
    assert loaded.config.name == "my-run" and loaded.path == Path("configs/my_run.yaml") and train.epochs == 3
    assert (train.model.path, train.data.path, train.data.format) == ("Qwen3-8B", "plays/train.jsonl", "messages")
    assert train.lora and train.lora.rank == 32 and train.optim.lr == 2e-4 and loaded.config.cluster.gpus_per_node == 8
    assert loaded.path.read_text().startswith("# kctl submit my_run\nname: my-run\ntrain:\n")
    assert kctl(["validate", "my_run"]) == 0
    # The next one finds a profile, and leaves it alone.
    Path("configs/clusters/default.yaml").write_text(Path("configs/clusters/default.yaml").read_text() + "# mine\n")
    assert kctl(["init", "other", "--set", MODEL, "--set", DATA]) == 0
    assert Path("configs/clusters/default.yaml").read_text().endswith("# mine\n")


def test_nothing_is_overwritten_and_nothing_half_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("configs").mkdir()
    Path("configs/my_run.yaml").symlink_to("nowhere")
    assert kctl(["init", "my-run", "--set", MODEL, "--set", DATA]) == 2
    assert "configs/my_run.yaml: exists, and is not overwritten" in capsys.readouterr().err
    assert kctl(["init", "x", "--to", "configs/my_run.yaml", "--set", MODEL, "--set", DATA]) == 1
    assert kctl(["init", "bad", "--set", MODEL, "--set", DATA, "--set", "train.lora.rank=0"]) == 2
    assert kctl(["init", "b.d", "--set", MODEL, "--set", DATA]) == 2
    assert kctl(["init", "bad", "--set", "train.modle=x"]) == 2
    assert [str(path.relative_to(here)) for path in here.rglob("*")] == ["configs", "configs/my_run.yaml"]


def test_without_a_terminal_it_says_which_flags_are_missing() -> None:
    done = subprocess.run([*KCTL, "x"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no terminal to ask at: add --set train.model.path=... --set train.data.path=..." in done.stderr
    done = subprocess.run(KCTL, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "write kctl init NAME" in done.stderr


def test_asked_at_a_terminal_until_the_answer_is_right() -> None:
    done = asked("9 lives\nbard\nQwen3-0.6B\n/abs\nplays.json\n\nsixteen\n16\n\n0\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "configs/bard.yaml"
    assert (
        done.stderr.count("error: ") == 3
        and "its format (chameleons, messages, prompt_completion) [chameleons]: " in done.stderr
    )
    config = load("bard", []).config
    assert config.train.lora and config.train.lora.rank == 16 and config.train.data.path == "plays.json"
    assert (config.cluster.gpus_per_node, config.cluster.processes_per_node) == (0, 1)


def test_what_a_flag_said_is_not_asked() -> None:
    hub = "train.model.hub={id: Qwen/Qwen3-8B, revision: abc}"
    done = asked("\n\n\n", "full", "--set", hub, "--set", DATA, "--set", "train.method=full")
    assert done.returncode == 0, done.stderr
    assert "model" not in done.stderr.partition("say what")[0] and "rank" not in done.stderr
    assert load("full", []).config.train.method == "full"
    done = asked("\x04", "gone", "--set", MODEL)
    assert done.returncode == 2 and "nothing was written" in done.stderr and not Path("configs/gone.yaml").exists()
