"""The local backend acts as the operator does: environment, ends, restarts, several nodes, suspension."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.backends.run_view import condition
from kctl.errors import AlreadyExists, UsageError
from tests.cli.local_jobs import manifests, until, view, wait_for_file
from trainer.schema.contract import ANNOTATION_CANCELLED, Phase

RUN = "small-0123abcd"


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Local]:
    local = Local(tmp_path / ".kctl")
    yield local
    for job in local.list_jobs():
        local.delete(job["metadata"]["name"], 20)


def test_success_with_the_operators_environment(backend: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "7")
    code = (
        "import json, os, pathlib; e = dict(os.environ)\n"
        "e['config'] = open(e['TRAINER_CONFIG']).read()\n"
        "e['parent'] = os.getppid(); e['session'] = os.getsid(0) == os.getpid()\n"
        "pathlib.Path(e['TRAINER_RUNS'], 'seen.json').write_text(json.dumps(e))\n"
        "pathlib.Path(e['TRAINER_TERMINATION_LOG']).write_text(json.dumps("
        "{'phase': 'Succeeded', 'step': 30, 'steps': 30, 'loss': 2.5, 'code': 0, 'sentence': 'done'}))"
    )
    backend.create(manifests(RUN, code))
    done = until(backend, RUN, lambda job: job.settled)
    assert (done.phase, done.step, done.steps, done.loss, done.code) == (Phase.SUCCEEDED, 30, 30, 2.5, 0)
    seen = json.loads((backend.root / "runs" / "team" / "seen.json").read_text())
    assert json.loads(seen["config"]) == {"run": RUN}
    assert seen["session"] and seen["PYTHONUNBUFFERED"] == "1"
    assert (seen["RANK"], seen["WORLD_SIZE"], seen["PET_NNODES"], seen["PET_NPROC_PER_NODE"]) == ("0", "2", "1", "2")
    assert seen["MASTER_ADDR"] == "127.0.0.1" and seen["MASTER_PORT"] == seen["PET_MASTER_PORT"] != "23456"
    assert seen["HOME"] == os.environ["HOME"]
    pod = backend.list_pods(RUN)[0]
    assert seen["TRAINER_POD_UID"] == pod["metadata"]["uid"]
    job = backend.get_job(RUN)
    assert job is not None and job["status"]["replicaStatuses"] == {"Master": {"succeeded": 1}}
    assert job["status"]["completionTime"] and not condition(job, "Running")


def test_a_permanent_code_fails_the_job(backend: Local) -> None:
    code = (
        "import json, os, sys; open(os.environ['TRAINER_TERMINATION_LOG'], 'w').write("
        "json.dumps({'code': 3, 'sentence': 'train.json is empty'})); sys.exit(3)"
    )
    backend.create(manifests(RUN, code))
    done = until(backend, RUN, lambda job: job.settled)
    assert (done.phase, done.code, done.sentence, done.pods[0].life) == (Phase.FAILED, 3, "train.json is empty", 1)


@pytest.mark.parametrize("how", ["sys.exit(143)", "os.kill(os.getpid(), 9)"])
def test_a_retryable_end_is_tried_again(backend: Local, how: str) -> None:
    code = (
        "import os, pathlib, sys; marks = pathlib.Path(os.environ['TRAINER_RUNS']); n = len(list(marks.iterdir()))\n"
        f"(marks / str(n)).touch(); print('life', n, flush=True)\nif n < 2: {how}"
    )
    backend.create(manifests(RUN, code))
    done = until(backend, RUN, lambda job: job.settled)
    assert (done.phase, done.pods[0].life) == (Phase.SUCCEEDED, 3)
    lines = [text for _, text in backend.log_lines(f"{RUN}-master-0", True, None)]
    assert lines == ["life 0", "life 1", "life 2"]


def test_two_nodes_meet_and_both_must_succeed(backend: Local) -> None:
    code = (
        "import os, socket, sys, time; at = (os.environ['PET_MASTER_ADDR'], int(os.environ['PET_MASTER_PORT']))\n"
        "assert 'MASTER_ADDR' not in os.environ and os.environ['PET_NNODES'] == '2'\n"
        "if os.environ['PET_NODE_RANK'] == '0':\n"
        "    s = socket.create_server(at); c, _ = s.accept(); print('got', c.recv(9).decode())\n"
        "else:\n"
        "    time.sleep(0.3); c = socket.create_connection(at); c.sendall(b'worker-1'); print('sent')"
    )
    backend.create(manifests(RUN, code, workers=2))
    done = until(backend, RUN, lambda job: job.settled)
    assert done.phase is Phase.SUCCEEDED and [pod.index for pod in done.pods] == [0, 1]
    assert [text for _, text in backend.log_lines(f"{RUN}-worker-0", False, None)] == ["got worker-1"]


def test_one_failed_node_stops_the_other(backend: Local) -> None:
    code = "import os, sys, time; sys.exit(5) if os.environ['PET_NODE_RANK'] == '1' else time.sleep(60)"
    backend.create(manifests(RUN, code, workers=2))
    done = until(backend, RUN, lambda job: job.settled)
    assert (done.phase, done.code) == (Phase.FAILED, 5)
    assert {pod.name[-1]: pod.code for pod in done.pods} == {"0": 143, "1": 5}


def test_cancel_gives_grace_and_then_kills(backend: Local) -> None:
    code = (
        "import os, pathlib, signal, subprocess, sys, time; signal.signal(15, lambda *_: print('no', flush=True))\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "pathlib.Path(os.environ['TRAINER_RUNS'], 'child').write_text(str(child.pid))\n"
        "while True: time.sleep(0.05)"
    )
    backend.create(manifests(RUN, code, grace=1))
    child = int(wait_for_file(backend.root / "runs" / "team" / "child"))
    start = time.monotonic()
    backend.suspend(RUN, {ANNOTATION_CANCELLED: "now"})
    done = until(backend, RUN, lambda job: job.settled)
    assert 0.9 < time.monotonic() - start < 5
    assert (done.phase, done.code) == (Phase.CANCELLED, 137)
    assert [text for _, text in backend.log_lines(f"{RUN}-master-0", False, None)] == ["no"]
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1][:3]


def test_cancel_before_the_pods_exist(backend: Local) -> None:
    backend.create(manifests(RUN, "import time; time.sleep(60)"))
    backend.suspend(RUN, {ANNOTATION_CANCELLED: "now"})
    done = until(backend, RUN, lambda job: job.settled)
    assert done.phase is Phase.CANCELLED


def test_a_command_that_does_not_exist_fails_with_127(backend: Local) -> None:
    objects = manifests(RUN, "")
    objects[1]["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["command"] = ["no-such"]
    backend.create(objects)
    done = until(backend, RUN, lambda job: job.settled)
    assert (done.phase, done.code) == (Phase.FAILED, 127) and "no-such" in done.sentence


def test_the_log_explains_an_end_without_message(backend: Local) -> None:
    objects = manifests(RUN, "raise ValueError('what went wrong')")
    template = objects[1]["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    template["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError"
    backend.create(objects)
    done = until(backend, RUN, lambda job: job.settled)
    assert (done.code, done.sentence) == (1, "ValueError: what went wrong")


def test_secrets_come_from_the_users_environment(backend: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = manifests(RUN, "import os; print(os.environ['API_KEY'][::-1])")
    container = objects[1]["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "api"}}})
    monkeypatch.delenv("API_KEY", raising=False)
    with pytest.raises(UsageError, match="export API_KEY="):
        backend.create(objects)
    assert not backend.root.exists()
    monkeypatch.setenv("API_KEY", "tenalp-a")
    backend.create(objects)
    until(backend, RUN, lambda job: job.settled)
    assert [text for _, text in backend.log_lines(f"{RUN}-master-0", False, None)] == ["a-planet"]
    texts = [path.read_text() for path in (backend.root / "jobs").rglob("*") if path.is_file()]
    assert not any("tenalp-a" in text for text in texts)


def test_create_refuses_a_run_that_exists_and_dry_run_keeps_nothing(backend: Local) -> None:
    backend.create(manifests(RUN, "pass"), dry_run=True)
    assert not backend.root.exists() and backend.list_jobs() == []
    backend.create(manifests(RUN, "pass"))
    for dry_run in (True, False):
        with pytest.raises(AlreadyExists):
            backend.create(manifests(RUN, "pass"), dry_run=dry_run)
    until(backend, RUN, lambda job: job.settled)
    backend.delete(RUN, 10, uid="another")
    assert view(backend, RUN).phase is Phase.SUCCEEDED
    backend.delete(RUN, 10)
    assert backend.get_job(RUN) is None and backend.list_pods(RUN) == []
    assert [path.name for path in (backend.root / "jobs").iterdir()] == []
