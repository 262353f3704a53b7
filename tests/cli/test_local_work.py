"""A program on a local run's volumes: its output, its end, and that nothing of it stays."""

import json
import os
import re
import socket
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.backends.protocol import Work
from kctl.cli import run as kctl
from kctl.errors import RunFailed
from kctl.run.work import watched

PROFILE = """
image: example.org/trainer@sha256:{zeros}
volumes: {{models: {{claim: models}}, data: {{claim: data}}, runs: {{claim: runs}}}}
cpu: 1
memory: 1Gi
shm: 64Mi
pod_patch: {{containers: [{{name: pytorch, command: [python, -c, pass, trainer.launch]}}]}}
"""
CONFIG = {
    "name": "tiny",
    "train": {
        "model": {"path": "m"},
        "data": {"path": "d.json", "format": "messages"},
        "lora": {"rank": 4},
        "optim": {"lr": 1e-3},
    },
    "cluster": {"profile": "quick", "gpus_per_node": 0, "processes_per_node": 3},
}
PRINTS = "import os, sys; print(*(f'{n}={v}' for n, v in sorted(os.environ.items())), *sys.argv[1:], sep='\\n')\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that has succeeded, and a module `prints`, which shows what it was started with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCTL_LOCAL", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "prints.py").write_text(PRINTS)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "quick.yaml").write_text(PROFILE.format(zeros="0" * 64))
    (tmp_path / "tiny.yaml").write_text(json.dumps(CONFIG))
    assert kctl(["submit", "tiny.yaml", "--local", "--wait"]) == 0
    (job,) = Local(tmp_path / ".kctl").list_jobs()
    name: str = job["metadata"]["name"]
    return name


def test_it_sees_the_runs_volumes_and_no_peers(run: str, tmp_path: Path) -> None:
    said = list(Local(tmp_path / ".kctl").work(run, Work("show", "prints", ("--last", run))))
    assert said[-2:] == ["--last", run]
    assert {f"TRAINER_{name.upper()}={tmp_path / '.kctl' / name}" for name in ("models", "data", "runs")} < set(said)
    assert not [line for line in said if line.startswith(("RANK=", "WORLD_SIZE=", "PET_", "MASTER_"))]


def test_ranks_are_the_runs_own() -> None:
    argv = Work("ask", "trainer.generate", ("x",), ranks=True).argv("3")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    assert argv == ["python", "-m", "trainer.pod.filtered", *torchrun, "-m", "trainer.generate", "x"]


def test_a_failure_ends_with_the_programs_own_words(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Local(tmp_path / ".kctl").work(run, Work("fail", "json.tool", ("absent.json",)))
    with pytest.raises(RunFailed, match=r"json\.tool ended with code \d"):
        watched(work, "it", True)
    capsys.readouterr()

    def torchrun() -> object:
        yield from ("one", "error: no space (code 7)", "torchrun's trace")
        raise RunFailed("code 1")

    with pytest.raises(RunFailed, match=r"^no space \(code 7\)$"):
        watched(torchrun(), "it", True)  # type: ignore[arg-type]
    assert capsys.readouterr().err == "one\n"


def test_nothing_stays_of_what_is_closed(run: str, tmp_path: Path) -> None:
    lines = Local(tmp_path / ".kctl").work(run, Work("serve", "http.server", ("0", "--bind", "127.0.0.1")))
    port = int(re.search(r"port (\d+)", next(iter(lines)))[1])  # type: ignore[index]
    socket.create_connection(("127.0.0.1", port)).close()
    lines.close()  # type: ignore[attr-defined]

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
