"""The run verbs as a person types them, on real configs whose pods run a few lines of Python."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.cli import run as kctl
from tests.cli.local_jobs import until, wait_for_file
from trainer.schema.contract import Phase

PROFILE = """
image: example.org/trainer@sha256:{zeros}
volumes: {{models: {{claim: models}}, data: {{claim: data}}, runs: {{claim: runs}}}}
cpu: 1
memory: 1Gi
shm: 64Mi
grace_seconds: 60
pod_patch:
  containers:
  - name: pytorch
    command: [python, -c, {code}, trainer.launch]
"""
CONFIG = """
name: tiny
train:
  model: {path: m}
  data: {path: d.json, format: messages}
  lora: {rank: 4}
  optim: {lr: 1e-3}
cluster: {profile: bench, gpus_per_node: 0, processes_per_node: 1}
"""
STEP = "print('step=1/2 loss=3.5 lr=1.0e-03 eta_s=10', flush=True)"
TRAIN = f"""
import hashlib, json, os, pathlib
run = os.environ["TRAINER_POD_NAME"].removesuffix("-master-0")
folder = pathlib.Path(os.environ["TRAINER_RUNS"], run, "adapter"); folder.mkdir(parents=True)
files = {{"adapter_model.safetensors": bytes(range(256)) * 8000, "adapter_config.json": b"{{}}"}}
for name, data in files.items(): (folder / name).write_bytes(data)
listed = {{n: {{"size": len(d), "sha256": hashlib.sha256(d).hexdigest()}} for n, d in files.items()}}
(folder / "MANIFEST.json").write_text(json.dumps({{"files": listed}}))
{STEP}
"""
FOREVER = f"import time; {STEP}; time.sleep(60)"
FAIL = (
    "import os, sys; open(os.environ['TRAINER_TERMINATION_LOG'], 'w')"
    '.write(\'{"code": 3, "sentence": "no data"}\'); '
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Local]]:
    """A working directory with a config whose run executes the given code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCTL_LOCAL", raising=False)
    local = Local(tmp_path / ".kctl")

    def prepared(code: str) -> Local:
        (tmp_path / "clusters").mkdir(exist_ok=True)
        (tmp_path / "clusters" / "bench.yaml").write_text(PROFILE.format(zeros="0" * 64, code=json.dumps(code)))
        (tmp_path / "tiny.yaml").write_text(CONFIG)
        return local

    yield prepared
    for job in local.list_jobs():
        local.delete(job["metadata"]["name"], 20)


def the_run(local: Local) -> str:
    (job,) = local.list_jobs()
    name: str = job["metadata"]["name"]
    return name


def test_submit_follow_and_pull(place: Callable[[str], Local], capsys: pytest.CaptureFixture[str]) -> None:
    local = place(TRAIN)
    assert kctl(["submit", "tiny.yaml", "--local", "-f"]) == 0
    run = the_run(local)
    seen = capsys.readouterr()
    assert seen.out == f"pytorchjob.kubeflow.org/{run} created\nstep=1/2 loss=3.5 lr=1.0e-03 eta_s=10\n"
    assert f"run {run} succeeded; kctl pull {run} --local" in seen.err
    assert kctl(["submit", "tiny.yaml", "--local", "--wait"]) == 0
    seen = capsys.readouterr()
    assert seen.out == "" and "succeeded already" in seen.err
    assert kctl(["status", "tiny", "--local", "-o", "json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["run"], status["phase"], status["step"], status["loss"]) == (run, "Succeeded", 1, 3.5)
    assert kctl(["pull", run, "--local"]) == 0
    assert capsys.readouterr().out == f"adapters/{run}\n"
    assert sorted(path.name for path in Path("adapters", run).iterdir()) == [
        "MANIFEST.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert kctl(["pull", "@latest", "--local"]) == 0
    assert "already there" in capsys.readouterr().err
    assert kctl(["cancel", run, "--local"]) == 0
    assert "has ended already (Succeeded)" in capsys.readouterr().err
    for verb in (["wait"], ["logs"], ["logs", "-f"]):
        assert kctl([*verb, run, "--local"]) == 0


def test_a_damaged_file_is_named_and_nothing_is_kept(
    place: Callable[[str], Local], capsys: pytest.CaptureFixture[str]
) -> None:
    local = place(TRAIN)
    assert kctl(["submit", "tiny.yaml", "--local", "--wait"]) == 0
    run = the_run(local)
    weights = local.root / "runs" / run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert kctl(["pull", run, "--local", "--to", "here"]) == 1
    assert "adapter/adapter_model.safetensors" in capsys.readouterr().err
    assert not Path("here", run).exists()
    assert kctl(["pull", run, "--local", "--last"]) == 4


def test_cancel_resume_and_the_other_manifest(
    place: Callable[[str], Local], capsys: pytest.CaptureFixture[str]
) -> None:
    local = place(FOREVER)
    assert kctl(["submit", "tiny.yaml", "--local"]) == 0
    run = the_run(local)
    until(local, run, lambda job: job.phase is Phase.RUNNING)
    assert kctl(["submit", "tiny.yaml", "--local"]) == 0
    assert "already active" in capsys.readouterr().err
    assert kctl(["submit", "tiny.yaml", "--local", "--set", "train.ops.log_every=3"]) == 6
    assert f"kctl cancel {run} --local" in capsys.readouterr().err
    assert kctl(["wait", run, "--local", "--timeout", "0.3s"]) == 7
    assert kctl(["cancel", "tiny", "--local"]) == 0
    assert capsys.readouterr().out == f"pytorchjob.kubeflow.org/{run} cancelled\n"
    assert kctl(["wait", run, "--local"]) == 3
    assert "was cancelled" in capsys.readouterr().err
    assert kctl(["list", "--local"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == [run, "Cancelled", "1/2"]
    assert kctl(["submit", "tiny.yaml", "--local", "--set", "train.ops.log_every=3"]) == 0
    seen = capsys.readouterr()
    assert seen.out == f"pytorchjob.kubeflow.org/{run} created\n" and "resumes" in seen.err
    until(local, run, lambda job: job.phase is Phase.RUNNING)


def test_a_failure_gives_the_trainers_sentence(
    place: Callable[[str], Local], capsys: pytest.CaptureFixture[str]
) -> None:
    place(FAIL + "sys.exit(3)")
    assert kctl(["submit", "tiny.yaml", "--local", "-f"]) == 3
    assert "failed (code 3): no data" in capsys.readouterr().err


def test_dry_runs_and_bad_names_create_nothing(
    place: Callable[[str], Local], capsys: pytest.CaptureFixture[str]
) -> None:
    local = place(TRAIN)
    assert kctl(["submit", "tiny.yaml", "--local", "--dry-run=client", "-o", "yaml"]) == 0
    assert "kind: PyTorchJob" in capsys.readouterr().out
    assert kctl(["submit", "tiny.yaml", "--local", "--dry-run=server"]) == 0
    assert "created (server dry run)" in capsys.readouterr().out
    assert kctl(["status", "../tiny", "--local"]) == 4
    assert kctl(["status", "@latest", "--local"]) == 4
    assert kctl(["logs", "tiny", "--local", "--since", "soon"]) == 2
    assert kctl(["list", "--local", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == []
    assert not local.root.exists()


def test_two_submits_at_once_and_ctrl_c_only_detaches(place: Callable[[str], Local], tmp_path: Path) -> None:
    local = place(FOREVER)
    command = [sys.executable, "-m", "kctl", "submit", "tiny.yaml", "--local"]
    # A shell's background jobs ignore Ctrl-C, and so would the follower of a test that runs in one.
    follower = subprocess.Popen(
        [*command, "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    run = the_run(local)
    wait_for_file(tmp_path / ".kctl" / "jobs" / run / "logs" / f"{run}-master-0-1.log")
    assert follower.stdout
    lines = [follower.stdout.readline()]
    lines += [follower.stdout.readline()] if "created" in lines[0] else []
    assert lines[-1].startswith("step=1/2")
    os.kill(follower.pid, signal.SIGINT)
    _, errors = follower.communicate(timeout=30)
    assert follower.returncode == 130 and f"kctl logs -f {run} --local" in errors
    assert ["created" in lines[0], "created" in other.stdout].count(True) == 1
    assert ["already active" in errors, "already active" in other.stderr].count(True) == 1
    assert until(local, run, lambda job: True).phase is Phase.RUNNING
