"""The local backend under violence: killed supervisors and pods, two submits at once, a terminal that goes away."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kctl.backends.local.backend import GONE, Local
from kctl.backends.local.pod import ANNOTATION_PID
from kctl.backends.local.process import Process, identify, marked
from kctl.backends.local.store import LocalRun, editing
from kctl.errors import AlreadyExists, KctlError
from tests.cli.local_jobs import manifests, until, view, wait_for_file
from trainer.schema.contract import ANNOTATION_CANCELLED, Phase

RUN = "hard-0123abcd"
SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Local]:
    local = Local(tmp_path / ".kctl")
    yield local
    for job in local.list_jobs():
        local.delete(job["metadata"]["name"], 20)


def supervisor_pid(backend: Local) -> int:
    pid: int = json.loads((backend.root / "jobs" / RUN / "supervisor.pid").read_text())["pid"]
    return pid


def pod_pid(backend: Local) -> int:
    return int(backend.list_pods(RUN)[0]["metadata"]["annotations"][ANNOTATION_PID])


def until_up(backend: Local) -> None:
    until(backend, RUN, lambda job: job.phase is Phase.RUNNING)
    wait_for_file(backend.root / "jobs" / RUN / "logs" / f"{RUN}-master-0-1.log")


def test_a_killed_leader_is_started_again(backend: Local) -> None:
    backend.create(manifests(RUN, SLEEPER))
    until_up(backend)
    first, uid = pod_pid(backend), backend.list_pods(RUN)[0]["metadata"]["uid"]
    os.kill(first, signal.SIGKILL)
    again = until(backend, RUN, lambda job: job.pods[0].life == 2 and job.phase is Phase.RUNNING)
    assert pod_pid(backend) != first and backend.list_pods(RUN)[0]["metadata"]["uid"] != uid
    assert again.pods[0].code is None


def test_a_killed_supervisor_is_told_and_its_pods_never_run_twice(backend: Local) -> None:
    backend.create(manifests(RUN, STUBBORN, grace=1))
    until_up(backend)
    uid, leader = backend.list_pods(RUN)[0]["metadata"]["uid"], identify(pod_pid(backend))
    os.kill(supervisor_pid(backend), signal.SIGKILL)
    lost = until(backend, RUN, lambda job: job.phase is Phase.FAILED)
    assert lost.sentence == GONE and leader.alive and not lost.settled
    backend.delete(RUN, 20, lost.uid)
    assert not leader.alive and marked(uid) == []
    backend.create(manifests(RUN, "print('second life')"))
    assert until(backend, RUN, lambda job: job.settled).phase is Phase.SUCCEEDED


def test_a_pod_is_asked_to_save_when_its_supervisor_is_killed(backend: Local) -> None:
    code = (
        "import json, os, signal, sys, time\n"
        "def stop(*_):\n"
        "    open(os.environ['TRAINER_TERMINATION_LOG'], 'w').write(json.dumps({'step': 7, 'code': 143}))\n"
        "    sys.exit(143)\n"
        "signal.signal(15, stop); print('up', flush=True); time.sleep(60)"
    )
    backend.create(manifests(RUN, code))
    until_up(backend)
    os.kill(supervisor_pid(backend), signal.SIGKILL)
    lost = until(backend, RUN, lambda job: job.settled)
    assert (lost.phase, lost.step, lost.code) == (Phase.FAILED, 7, 143)


def test_a_reused_pid_is_nobody_of_ours(backend: Local) -> None:
    backend.create(manifests(RUN, SLEEPER))
    until_up(backend)
    os.kill(supervisor_pid(backend), signal.SIGKILL)
    until(backend, RUN, lambda job: job.settled)
    bystander = subprocess.Popen([sys.executable, "-c", SLEEPER])
    try:
        run = backend.root / "jobs" / RUN
        for path in (run / "supervisor.pid", run / "pods" / f"{RUN}-master-0.json"):
            record = json.loads(path.read_text())
            notes = record if "pid" in record else record["metadata"]["annotations"]
            notes["pid" if "pid" in notes else ANNOTATION_PID] = (
                str(bystander.pid) if "pid" not in notes else bystander.pid
            )
            path.write_text(json.dumps(record))
        assert view(backend, RUN).phase is Phase.FAILED
        backend.delete(RUN, 10)
        assert bystander.poll() is None and not Process(bystander.pid, "another boot/1").alive
    finally:
        bystander.kill()
        bystander.wait()


def test_a_supervisor_told_to_stop_stops_its_pods(backend: Local) -> None:
    backend.create(manifests(RUN, SLEEPER))
    until_up(backend)
    os.kill(supervisor_pid(backend), signal.SIGTERM)
    stopped = until(backend, RUN, lambda job: job.settled)
    assert (stopped.phase, stopped.sentence) == (Phase.FAILED, GONE)


@pytest.mark.parametrize("existing", [False, True])
def test_of_many_creates_at_once_one_wins(backend: Local, existing: bool) -> None:
    if existing:
        backend.create(manifests(RUN, "raise SystemExit(3)"))
        until(backend, RUN, lambda job: job.settled)
        backend.delete(RUN, 10)
    creator = (
        "import sys, json, pathlib\nfrom kctl.backends.local.backend import Local\n"
        "from kctl.errors import AlreadyExists\n"
        "root, objects = json.loads(sys.stdin.readline())\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "try: Local(pathlib.Path(root)).create(objects); print('created')\n"
        "except AlreadyExists: print('exists')\n"
    )
    mark = backend.root.parent / "lives"
    objects = manifests(RUN, f"open({str(mark)!r}, 'a').write('x'); import time; time.sleep(60)")
    racers = [
        subprocess.Popen([sys.executable, "-c", creator], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin and racer.stdout
        racer.stdin.write(json.dumps([str(backend.root), objects]) + "\n")
        racer.stdin.flush()
        assert racer.stdout.readline() == "ready\n"
    words = sorted(racer.communicate("\n")[0].strip() for racer in racers)
    assert words == ["created", "exists", "exists", "exists"]
    assert wait_for_file(mark) == "x"
    backend.delete(RUN, 10)
    assert mark.read_text() == "x"
    assert list((backend.root / "jobs").iterdir()) == []


def test_the_run_outlives_the_terminals_session(backend: Local) -> None:
    code = (
        "import sys, json, pathlib, signal, time\nfrom kctl.backends.local.backend import Local\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored\n"
        "root, objects = json.loads(sys.stdin.readline())\nLocal(pathlib.Path(root)).create(objects)\n"
        "print('ok', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdin and parent.stdout
    parent.stdin.write(json.dumps([str(backend.root), manifests(RUN, "import time; time.sleep(1.0)")]) + "\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "ok\n"
    until(backend, RUN, lambda job: job.phase is Phase.RUNNING)
    os.killpg(parent.pid, signal.SIGHUP)
    assert parent.wait() == -signal.SIGHUP
    assert until(backend, RUN, lambda job: job.settled).phase is Phase.SUCCEEDED
    parent.stdin.close()
    parent.stdout.close()


def test_cancelling_a_run_that_ended_at_that_moment_keeps_its_end(backend: Local) -> None:
    backend.create(manifests(RUN, "pass"))
    until(backend, RUN, lambda job: job.settled)
    backend.suspend(RUN, {ANNOTATION_CANCELLED: "late"})
    assert view(backend, RUN).phase is Phase.SUCCEEDED


def test_readers_see_no_half_written_job_and_no_lost_update(backend: Local) -> None:
    backend.create(manifests(RUN, "import time; time.sleep(0.7); raise SystemExit(143)", grace=1))
    folder = LocalRun(backend.root / "jobs" / RUN)
    deadline, count = time.monotonic() + 2, 0
    while time.monotonic() < deadline:
        with editing(folder) as job:
            assert job is not None
            job["metadata"]["annotations"]["count"] = str(count)
        now = backend.get_job(RUN)
        assert now is not None and now["metadata"]["annotations"]["count"] == str(count)
        count += 1
    assert count > 20


def test_a_full_or_forbidden_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    local = Local(tmp_path / "file" / ".kctl")
    with pytest.raises(KctlError, match="KCTL_LOCAL"):
        local.create(manifests(RUN, "pass"))


def test_an_unfinished_delete_can_be_finished(backend: Local) -> None:
    backend.create(manifests(RUN, SLEEPER))
    with editing(LocalRun(backend.root / "jobs" / RUN)) as job:
        assert job is not None
        job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    until(backend, RUN, lambda job: not any(pod.active for pod in job.pods))
    assert view(backend, RUN).deleting
    with pytest.raises(AlreadyExists):
        backend.create(manifests(RUN, "pass"))
    backend.delete(RUN, 10)
    assert backend.get_job(RUN) is None
