"""kctl explain --local on real processes: how they end is what it says."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.cli import run as kctl
from tests.cli.local_jobs import manifests, until, wait_for_file
from trainer.schema.contract import Phase

RUN = "sad-0123abcd"
STEP = "print('step=1/2 loss=3.5 lr=1.0e-03 eta_s=7200', flush=True)"
SLEEP = f"import time; {STEP}; time.sleep(60)"
FULL = "/runs/sad: No space left on device: make room there and submit again"


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KCTL_LOCAL", str(tmp_path / ".kctl"))
    local = Local(tmp_path / ".kctl")
    yield local
    for job in local.list_jobs():
        local.delete(job["metadata"]["name"], 20)


def says(code: int, sentence: str) -> str:
    """A program that ends as the trainer does."""
    last = json.dumps({"code": code, "sentence": sentence})
    return f"import os, sys; open(os.environ['TRAINER_TERMINATION_LOG'], 'w').write({last!r}); sys.exit({code})"


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The page's lines by their names; continued ones are joined."""
    assert kctl(["explain", RUN, "--local"]) == 0
    page: dict[str, str] = {}
    name = ""
    for line in capsys.readouterr().out.splitlines():
        name = line[:9].strip() or name
        page[name] = f"{page[name]}\n{line[10:]}" if name in page else line[10:]
    return page


@pytest.mark.parametrize(
    ("program", "name", "words"),
    [
        (says(7, FULL), "volume-full", FULL),
        (
            says(3, "/data/x.json: no such file: copy it there"),
            "data-absent",
            "/data/x.json: no such file",
        ),
        ("import kein_modul", "not-the-trainers-image", "kein_modul"),
        ("print('three'); print('lines'); raise SystemExit(42)", "ended", "code 42"),
    ],
    ids=["full", "data", "module", "code"],
)
def test_how_a_run_failed(
    backend: Local, capsys: pytest.CaptureFixture[str], program: str, name: str, words: str
) -> None:
    backend.create(manifests(RUN, program))
    until(backend, RUN, lambda run: run.settled)
    page = told(capsys)
    assert page["Run:"] == f"{RUN} is Failed"
    assert words in page["Cause:"] and page["Cause:"].endswith(f"[{name}]")
    assert f"pod {RUN}-master-0" in page["Evidence:"] and "--local" in page["Next:"] + "--local" * ("image" in name)
    assert "kubectl" not in "".join(page.values()) and "Not seen:" not in page
    if name == "ended":
        assert page["Evidence:"].endswith("log: three\nlog: lines"), "its last lines"


def test_a_run_that_trains_is_cancelled(backend: Local, capsys: pytest.CaptureFixture[str]) -> None:
    backend.create(manifests(RUN, SLEEP))
    until(backend, RUN, lambda run: run.phase is Phase.RUNNING)
    wait_for_file(backend.root / "jobs" / RUN / "logs" / f"{RUN}-master-0-1.log")
    assert told(capsys)["Cause:"] == "it trains: step 1/2, about 2.0 h left [training]"
    assert kctl(["explain", "@latest", "--local", "-o", "name"]) == 0
    assert capsys.readouterr().out == "training\n"
    assert kctl(["cancel", RUN, "--local"]) == 0
    until(backend, RUN, lambda run: run.settled)
    capsys.readouterr()
    page = told(capsys)
    assert page["Cause:"] == "the run was cancelled; its pods are gone [cancelled]"
    assert page["Next:"].startswith("kctl submit CONFIG --local")


def test_the_supervisor_is_killed(backend: Local, capsys: pytest.CaptureFixture[str]) -> None:
    backend.create(manifests(RUN, SLEEP, grace=1))
    until(backend, RUN, lambda run: run.phase is Phase.RUNNING)
    os.kill(json.loads((backend.root / "jobs" / RUN / "supervisor.pid").read_text())["pid"], signal.SIGKILL)
    until(backend, RUN, lambda run: run.settled)
    assert kctl(["explain", RUN, "--local", "-o", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["run"], value["phase"], value["unseen"]) == (RUN, "Failed", [])
    first, *others = value["causes"]
    assert first["name"] == "supervisor-gone" and others == []
    assert first["evidence"] == ["job: the supervisor is gone; submit again to resume"]
    assert kctl(["explain", RUN, "--local", "-o", "yaml"]) == 0
    assert "name: supervisor-gone" in capsys.readouterr().out


def test_no_such_run(backend: Local, capsys: pytest.CaptureFixture[str]) -> None:
    assert kctl(["explain", "none", "--local"]) == 4
    assert "no run 'none'; see kctl list --local" in capsys.readouterr().err
