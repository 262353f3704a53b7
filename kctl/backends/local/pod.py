"""One life of one pod: a process group, its log with a time on every line, and its record in pods/<name>.json.

Single-threaded: the supervisor calls `pump` when there is output and `poll` at every turn.
"""

import os
import signal
import subprocess
import time
import uuid

from kctl.backends.local.env import PodPlan, command, environment, folders, termination_log, with_termination_log
from kctl.backends.local.process import die_with_parent, identify, kill_marked, send
from kctl.backends.local.store import LocalRun, write_json
from kctl.backends.run_view import ANNOTATION_LIFE
from kctl.backends.times import log_time, timestamp
from kctl.manifest import Manifest
from trainer.schema.contract import CONTAINER

ANNOTATION_PID = "kctl.dev/pid"
ANNOTATION_STARTED = "kctl.dev/process-start"
_LINE_LIMIT = 1 << 16
_DRAIN_SECONDS = 5.0
"""How long the pipe is read once the leader is gone and everything it started is killed."""
_MESSAGE_LIMIT = 4096
"""Bytes of a termination message, as Kubernetes keeps them."""
_FALLBACK_LIMIT = 2048
"""Bytes of log that stand in for a missing message after an error, as the kubelet takes them."""


class LocalPod:
    """Started by `start`; over once `code` is set."""

    def __init__(self, run: LocalRun, job: Manifest, plan: PodPlan, life: int, port: int) -> None:
        self.run, self.plan, self.life = run, plan, life
        self.uid = str(uuid.uuid4())
        self.code: int | None = None
        self._environment = environment(run, job, plan, self.uid, port)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = run.log(plan.name, life).open("ab")
        self._rest = b""
        self._time = 0
        self._kill_at: float | None = None
        self._created = timestamp()
        self._write("Pending", {"waiting": {"reason": "ContainerCreating"}})

    def start(self) -> None:
        """Run the command; one that cannot be run ends with 127, as a shell has it."""
        mapped = folders(self.run, self.plan)
        work = self.run.work / self.plan.name
        for folder in (work, *(path for path in mapped.values() if not path.exists())):
            folder.mkdir(parents=True, exist_ok=True)
        message = termination_log(self.run, self.plan, self.life)
        try:
            self._process = subprocess.Popen(
                command(self.run, self.plan),
                cwd=work,
                env=with_termination_log(self._environment, message),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            message.write_text(f"cannot run {command(self.run, self.plan)[0]}: {error.strerror}", encoding="utf-8")
            self._end(127)
            return
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._write("Running", {"running": {"startedAt": self._created}})

    @property
    def output(self) -> int | None:
        """File descriptor to wait on; None once it is over."""
        if self.code is not None or self._process is None or self._process.stdout is None:
            return None
        return None if self._process.stdout.closed else self._process.stdout.fileno()

    def pump(self) -> bool:
        """Move what the pod printed into its log; False once there is nothing at the moment."""
        assert self._process is not None and self._process.stdout is not None
        try:
            data = os.read(self._process.stdout.fileno(), 1 << 20)
        except BlockingIOError:
            return False
        if not data:
            self._process.stdout.close()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > _LINE_LIMIT:
            lines.append(self._rest[:_LINE_LIMIT])
            self._rest = self._rest[_LINE_LIMIT:]
        self._keep(lines)
        return True

    def poll(self) -> None:
        """Notice an end and write it down; kill what outlived its grace."""
        if self.code is not None or self._process is None:
            return
        status = self._process.poll()
        if status is None:
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                kill_marked(self.uid)
            return
        kill_marked(self.uid)  # a container's other processes end with its first
        self._drain()
        self._end(status if status >= 0 else 128 - status)

    def stop(self, grace: float) -> None:
        """SIGTERM to the leader now, SIGKILL to everything after `grace` seconds. Later calls only shorten it."""
        if self.code is not None or self._process is None:
            return
        first, kill_at = self._kill_at is None, time.monotonic() + grace
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if first:
            send(self._process.pid, signal.SIGTERM)

    def _drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self.output is not None and time.monotonic() < deadline:
            if not self.pump() and self.output is not None:
                time.sleep(0.01)
        if self._rest:
            self._keep([self._rest])
            self._rest = b""

    def _keep(self, lines: list[bytes]) -> None:
        self._time = max(self._time + 1, time.time_ns())  # never backwards, whatever the wall clock does
        stamp = log_time(self._time).encode()
        self._log.write(b"".join(stamp + b" " + line + b"\n" for line in lines))
        self._log.flush()

    def _end(self, code: int) -> None:
        self._log.close()
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        reason = "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "startedAt": self._created, "finishedAt": timestamp()}
        message = read_message(self.run, self.plan.name, self.life)
        if not message and code and self.plan.container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = self._last_words()
        self._write("Succeeded" if code == 0 else "Failed", {"terminated": {**ended, "message": message}})
        self.code = code

    def _last_words(self) -> str:
        with self.run.log(self.plan.name, self.life).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _FALLBACK_LIMIT))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(line.partition(" ")[2] for line in lines)

    def _write(self, phase: str, state: Manifest) -> None:
        process = identify(self._process.pid) if self._process is not None else None
        annotations = {ANNOTATION_LIFE: str(self.life)}
        if process is not None:
            annotations |= {ANNOTATION_PID: str(process.pid), ANNOTATION_STARTED: process.started}
        status = {"phase": phase, "containerStatuses": [{"name": CONTAINER, "restartCount": 0, "state": state}]}
        metadata = {
            "name": self.plan.name,
            "namespace": "local",
            "uid": self.uid,
            "creationTimestamp": self._created,
            "labels": self.plan.labels,
            "annotations": annotations,
        }
        record = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
        write_json(self.run.pod(self.plan.name), record)


def read_message(run: LocalRun, pod: str, life: int) -> str:
    """What the pod left as its termination message, at most 4096 bytes of it."""
    try:
        with (run.work / pod / f"termination-{life}").open("rb") as file:
            return file.read(_MESSAGE_LIMIT).decode(errors="replace")
    except FileNotFoundError:
        return ""
