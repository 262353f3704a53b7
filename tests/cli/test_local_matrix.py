"""Several runs by one submit, as a person types it: one table, a few at a time, and the failed one alone again."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.cli import run as kctl
from tests.cli.local_jobs import until, wait_for_file
from tests.cli.test_local_cli import FOREVER, STEP, place
from trainer.schema.contract import Phase

__all__ = ["place"]  # the fixture
Place = Callable[[str], Local]

ONE_AT_A_TIME = f"""
import json, os, pathlib, sys
runs = pathlib.Path(os.environ["TRAINER_RUNS"])
rank = json.loads(pathlib.Path(os.environ["TRAINER_CONFIG"]).read_text())["train"]["lora"]["rank"]
(runs / "busy").mkdir()  # ends with code 1 where another one is at work
with (runs / "lives").open("a") as lives: print(rank, file=lives)
(runs / "busy").rmdir()
{STEP}
if rank == 8 and not (runs / "mended").exists():
    pathlib.Path(os.environ["TRAINER_TERMINATION_LOG"]).write_text('{{"code": 3, "sentence": "no data"}}')
    sys.exit(3)
"""
MATRIX = ["--local", "--matrix", "train.lora.rank=4,8,16"]


def test_one_after_the_other_and_only_what_failed_again(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    local = place(ONE_AT_A_TIME)
    assert kctl(["submit", "tiny.yaml", *MATRIX, "--max-parallel", "1"]) == 3
    seen = capsys.readouterr()
    header, *rows = [line.split() for line in seen.out.splitlines()]
    assert header == ["RUN", "RANK", "PHASE", "STEP", "LOSS"]
    assert [row[1:3] for row in rows] == [["4", "Succeeded"], ["8", "Failed"], ["16", "Succeeded"]]
    assert [row[3:] for row in rows if row[1] != "8"] == [["1/2", "3.5000"]] * 2
    assert f"1 of 3 runs did not succeed: {rows[1][0]}" in seen.err
    runs = local.root / "runs"
    assert (runs / "lives").read_text().split() == ["4", "8", "16"]
    (runs / "mended").touch()
    assert kctl(["submit", "tiny.yaml", *MATRIX, "--max-parallel", "1"]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]] == ["Succeeded"] * 3
    assert (runs / "lives").read_text().split() == ["4", "8", "16", "8"]


def test_all_at_once_a_dry_run_and_what_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    local = place(FOREVER)
    for mode in ("client", "server"):
        assert kctl(["submit", "tiny.yaml", *MATRIX, "--dry-run", mode]) == 0
        assert capsys.readouterr().out.count("dry run)") == 3 and local.list_jobs() == []
    assert kctl(["submit", "tiny.yaml", "--local", "--matrix", "train.lora.rank=4,0"]) == 2
    assert kctl(["submit", "tiny.yaml", *MATRIX, "--follow"]) == 2
    assert kctl(["submit", "tiny.yaml", "--local", "--max-parallel", "2"]) == 2
    capsys.readouterr()
    assert local.list_jobs() == []
    assert kctl(["submit", "tiny.yaml", "--local", "--matrix", "train.lora.rank=4"]) == 0
    assert kctl(["submit", "tiny.yaml", *MATRIX]) == 0
    told = capsys.readouterr()
    assert [line.split(maxsplit=2)[2] for line in told.out.splitlines()[-3:]] == [
        "unchanged: it is active",
        "created",
        "created",
    ]
    assert "follow them: kctl top --local" in told.err
    # Those at work have another manifest now: each is named, and the others would still have been started.
    assert kctl(["submit", "tiny.yaml", *MATRIX, "--set", "train.ops.log_every=3"]) == 6
    assert capsys.readouterr().err.count("first: kctl cancel tiny-") == 3
    assert kctl(["submit", "tiny.yaml", *MATRIX, "-o", "name"]) == 0
    assert len(capsys.readouterr().out.split()) == 3


def test_ctrl_c_leaves_the_runs_and_says_how_many_wait(place: Place, tmp_path: Path) -> None:
    local = place(FOREVER)
    command = [sys.executable, "-m", "kctl", "submit", "tiny.yaml", *MATRIX, "--max-parallel", "2"]
    submitter = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert submitter.stderr
    while submitter.stderr.readline().count(" created (train.lora.rank=8)") == 0:
        assert submitter.poll() is None
    submitter.send_signal(signal.SIGINT)
    _, errors = submitter.communicate(timeout=30)
    assert submitter.returncode == 130
    assert "2 runs go on; 1 are not submitted yet. The same command again goes on" in errors
    names = [job["metadata"]["name"] for job in local.list_jobs()]
    assert len(names) == 2
    for name in names:
        wait_for_file(tmp_path / ".kctl" / "jobs" / name / "logs" / f"{name}-master-0-1.log")
        assert until(local, name, lambda job: job.phase is Phase.RUNNING)
