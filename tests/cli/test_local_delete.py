"""delete, prune, and the log of an attempt before the newest, as a person types them."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.cli import run as kctl
from tests.cli.test_local_cli import FAIL, FOREVER, TRAIN, place, the_run
from trainer.erase import erase
from trainer.errors import RunsFolderError
from trainer.pod.ownership import Timing, acquire
from trainer.schema.contract import RunFolder

__all__ = ["place"]  # the fixture
Place = Callable[[str], Local]


def test_an_active_run_is_not_deleted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    local = place(FOREVER)
    assert kctl(["submit", "tiny.yaml", "--local"]) == 0
    assert kctl(["delete", "tiny.yaml", "--local"]) == 6
    assert f"first: kctl cancel {the_run(local)} --local" in capsys.readouterr().err
    assert kctl(["prune", "--local", "--yes"]) == 0
    assert "no runs locally have ended" in capsys.readouterr().err and the_run(local)


def test_what_a_deleted_run_wrote_stays(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    local = place(TRAIN)
    assert kctl(["submit", "tiny.yaml", "--local", "--wait"]) == 0
    run = the_run(local)
    capsys.readouterr()
    assert kctl(["delete", "tiny.yaml", "--local"]) == 0
    assert capsys.readouterr().out == f"pytorchjob.kubeflow.org/{run} deleted\n"
    assert local.list_jobs() == [] and (local.root / "runs" / run / "adapter" / "MANIFEST.json").is_file()
    assert kctl(["delete", "tiny.yaml", "--local"]) == 4


def test_outputs_go_only_after_a_yes(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    local = place(TRAIN)
    assert kctl(["submit", "tiny.yaml", "--local", "--wait"]) == 0
    run = the_run(local)
    folder = local.root / "runs" / run
    assert kctl(["delete", run, "--local", "--outputs"]) == 2  # pytest's stdin is no terminal
    assert "no terminal to ask at: add --yes" in capsys.readouterr().err and folder.is_dir()
    for answer, code in (("n\n", 2), ("y\n", 0)):
        terminal, stdin = pty.openpty()
        os.write(terminal, answer.encode())
        command = [sys.executable, "-m", "kctl", "delete", run, "--local", "--outputs"]
        asked = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=60)
        os.close(stdin)
        os.close(terminal)
        assert asked.returncode == code and f"delete run {run} and all it wrote" in asked.stderr
        assert folder.is_dir() is (code == 2)
    assert local.list_jobs() == []


def test_prune_takes_what_ended_long_enough_ago(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    local = place(FAIL + "sys.exit(3)")
    assert kctl(["submit", "tiny.yaml", "--local", "--wait"]) == 3
    run = the_run(local)
    assert kctl(["prune", "--local", "--older-than", "1h"]) == 0
    assert kctl(["prune", "--local", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert run in told.out and "ended that long ago" in told.err and local.list_jobs()
    assert kctl(["prune", "--local"]) == 2
    assert kctl(["prune", "--local", "--yes", "--outputs"]) == 0
    assert local.list_jobs() == [] and f"{run} deleted with its outputs" in capsys.readouterr().out


def test_a_folder_that_somebody_writes_is_not_erased(tmp_path: Path) -> None:
    folder = tmp_path / "run-0"
    folder.mkdir()
    fast = Timing(beat=0.05, still=0.8, patience=1.6, pause=0.02)
    held = acquire(RunFolder(folder), "pod-a", str, fast)
    with pytest.raises(RunsFolderError, match="belongs to pod pod-a"):
        erase(folder, fast)
    held.release()
    assert erase(folder, fast) and not folder.exists() and not erase(folder, fast)


def test_the_log_of_the_attempt_before_and_of_one_rank(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    local = place(TRAIN)
    assert kctl(["submit", "tiny.yaml", "--local", "--wait"]) == 0
    logs = RunFolder(local.root / "runs" / the_run(local)).logs
    assert kctl(["logs", "tiny.yaml", "--local", "--previous"]) == 4
    assert b"no earlier attempt" in capfdbinary.readouterr().err
    logs.mkdir()
    for attempt in (1, 2):
        (logs / f"attempt-{attempt:02d}-node-0.log").write_text(f"attempt {attempt}\n[rank0] a library's\nlast")
    assert kctl(["logs", "tiny.yaml", "--local", "--previous"]) == 0
    assert capfdbinary.readouterr().out == b"attempt 1\n[rank0] a library's\nlast\n"
    assert kctl(["logs", "tiny.yaml", "--local", "--previous", "--tail", "1"]) == 0
    assert capfdbinary.readouterr().out == b"last\n"
    assert kctl(["logs", "tiny.yaml", "--local", "--rank", "0", "--tail", "5"]) == 0
    assert b"step=1/2" in capfdbinary.readouterr().out
