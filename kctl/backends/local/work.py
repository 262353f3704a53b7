"""The trainer's programs on a local run's volumes, in the foreground: they end with whoever reads their output."""

import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

from kctl.backends.local.env import environment, pod_plans
from kctl.backends.local.process import die_with_parent, kill_marked, send
from kctl.backends.local.store import LocalRun
from kctl.backends.protocol import Work
from kctl.errors import RunFailed
from kctl.manifest import Manifest

_OF_THE_JOB = re.compile(r"^(PET_|MASTER_|RANK$|WORLD_SIZE$)")
"""What the operator tells the job's own pods: who their peers are."""
_GRACE_SECONDS = 10.0


def worked(run: LocalRun, job: Manifest, work: Work) -> Iterator[str]:
    """The program's output. RunFailed where it fails; closed early, everything of it is ended."""
    plan, uid = pod_plans(job)[0], str(uuid.uuid4())
    environ = environment(run, job, plan, uid, 0)
    _, *words = work.argv(str(job["spec"].get("nprocPerNode", "auto")))
    run.work.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=run.work,
        env={name: value for name, value in environ.items() if not _OF_THE_JOB.match(name)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            yield line.rstrip("\n")
        code = process.wait()
    finally:
        if process.poll() is None:
            _end(process)
        kill_marked(uid)
        process.stdout.close()
    if code:
        raise RunFailed(f"{work.module} ended with code {code}; its last words are above")


def _end(process: "subprocess.Popen[str]") -> None:
    send(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        send(process.pid, signal.SIGKILL)
        process.wait()
