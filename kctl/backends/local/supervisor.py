"""The training operator of one local run: `python -m kctl.backends.local.supervisor RUNDIR`, one detached process.

Creates the pods, writes conditions and replica statuses as the operator does, recreates a pod that ended with 128
or more, ends the job at the first permanent code, and obeys suspend and deletion in job.json.
"""

import os
import random
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from kctl.backends.local.env import PodPlan, pod_plans
from kctl.backends.local.pod import LocalPod
from kctl.backends.local.store import LocalRun, editing, read_json
from kctl.backends.times import timestamp
from kctl.manifest import Manifest

_TURN = 0.1
"""Seconds between two looks at processes and at job.json."""


class Supervisor:
    """Owns the run's pods until the job is finished, suspended or deleted."""

    def __init__(self, run: LocalRun) -> None:
        self.run = run
        job: Manifest = read_json(run.job)
        self.job = job
        self.pods: dict[str, LocalPod] = {}
        self.plans = {plan.name: plan for plan in pod_plans(job)}
        self.port = free_port()
        self.told_to_stop = False

    def supervise(self) -> None:
        """Run the job to its end."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._status(lambda status: _set_condition(status, self.run.name, "Created"))
        if self._obeyed():
            return
        for plan in self.plans.values():
            self._create(plan, life=1)
        self._status(self._running)
        while not self._reconcile():
            self._turn()
            if self._obeyed():
                return
        self._stop_all()
        self._status(self._counts)

    def _on_sigterm(self, *_: object) -> None:
        self.told_to_stop = True

    def _create(self, plan: PodPlan, life: int) -> None:
        pod = LocalPod(self.run, self.job, plan, life, self.port)
        self.pods[plan.name] = pod
        pod.start()

    def _turn(self) -> None:
        """Wait for output for a moment, keep it, and look which pods ended."""
        outputs = {pod.output: pod for pod in self.pods.values() if pod.output is not None}
        ready, _, _ = select.select(list(outputs), [], [], _TURN)
        for descriptor in ready:
            outputs[descriptor].pump()
        for pod in self.pods.values():
            pod.poll()

    def _reconcile(self) -> bool:
        """True once the job has succeeded or failed; pods with a retryable code are created again."""
        failed = [pod for pod in self.pods.values() if pod.code]
        for pod in failed:
            if pod.plan.restart_policy == "Never" or pod.code is None or pod.code < 128:
                self._finish("Failed", f"pod {pod.plan.name} ended with code {pod.code}")
                return True
        if failed:
            self._status(lambda status: _set_condition(status, self.run.name, "Restarting"))
            for pod in failed:
                self._create(pod.plan, pod.life + 1)
            self._status(self._running)
        masters = [pod for pod in self.pods.values() if pod.plan.replica == "Master"]
        if all(pod.code == 0 for pod in masters or self.pods.values()):
            self._finish("Succeeded", "all pods that count ended with code 0")
            return True
        return False

    def _finish(self, kind: str, message: str) -> None:
        def change(status: Manifest) -> None:
            self._counts(status)
            _set_condition(status, self.run.name, kind, message)
            status["completionTime"] = timestamp()

        self._status(change)

    def _obeyed(self) -> bool:
        """True if the run was suspended, deleted or this process told to stop, and its pods are gone."""
        job = read_json(self.run.job)
        suspended = bool(job["spec"].get("runPolicy", {}).get("suspend"))
        if not suspended and not self.told_to_stop and "deletionTimestamp" not in job["metadata"]:
            return False
        self._stop_all()
        if suspended:
            self._status(self._suspended)
        return True

    def _stop_all(self) -> None:
        for pod in self.pods.values():
            pod.stop(pod.plan.grace)
        while any(pod.code is None for pod in self.pods.values()):
            self._turn()

    def _status(self, change: Callable[[Manifest], None]) -> None:
        with editing(self.run) as job:
            if job is not None:
                change(job.setdefault("status", {}))

    def _running(self, status: Manifest) -> None:
        status.setdefault("startTime", timestamp())
        self._counts(status)
        _set_condition(status, self.run.name, "Running")

    def _suspended(self, status: Manifest) -> None:
        self._counts(status)
        status.pop("startTime", None)
        _set_condition(status, self.run.name, "Suspended")

    def _counts(self, status: Manifest) -> None:
        counts: dict[str, dict[str, int]] = {}
        for pod in self.pods.values():
            kind = "active" if pod.code is None else "failed" if pod.code else "succeeded"
            replica = counts.setdefault(pod.plan.replica, {})
            replica[kind] = replica.get(kind, 0) + 1
        status["replicaStatuses"] = counts
        status["lastReconcileTime"] = timestamp()


def _set_condition(status: Manifest, run: str, kind: str, message: str = "") -> None:
    """Set one condition to True as the operator does: Running and Restarting remove each other, an end ends Running."""
    conditions = [one for one in status.get("conditions", []) if one["type"] != kind]
    if kind in ("Running", "Restarting"):
        conditions = [one for one in conditions if one["type"] not in ("Running", "Restarting")]
    if kind in ("Succeeded", "Failed", "Suspended"):
        for one in conditions:
            if one["type"] in ("Running", "Restarting"):
                one["status"] = "False"
    text = message or f"PyTorchJob {run} is {kind.lower()}."
    now = timestamp()
    new = {"type": kind, "status": "True", "reason": f"PyTorchJob{kind}", "message": text}
    status["conditions"] = [*conditions, {**new, "lastTransitionTime": now, "lastUpdateTime": now}]


def free_port() -> int:
    """A free TCP port below the ephemeral range, so that no outgoing connection takes it before the trainer does."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port between 20000 and 32000")


def main() -> None:
    """Wait for the word of the creator (an end without it means that the create was refused), then supervise."""
    signal.signal(signal.SIGHUP, lambda *_: None)
    if sys.stdin.buffer.read() != b"go":
        return
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    run = LocalRun(Path(sys.argv[1]))
    os.chdir(run.folder)
    Supervisor(run).supervise()


if __name__ == "__main__":
    main()
