"""What the training operator writes into a PyTorchJob in every state of a run: jobs are led there, and read.

`python -m tests.cluster.operator_statuses` records anew what lies in statuses/; test_cluster_statuses.py compares.
A pod of these jobs is not scheduled before it is let, and ends with the code that is written into it.
"""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.cluster.jobs import shell_job
from tests.cluster.shell import Shell

FOLDER = Path(__file__).with_name("statuses")
NAME = "demo-1a2b3c4d"
MOMENT = "2026-11-25T12:00:00Z"
SCRIPT = "until [ -s /runs/code ]; do sleep 0.2; done; exit $(cat /runs/code)"

Job = dict[str, Any]


class Led:
    """A job that is led from state to state."""

    def __init__(self, shell: Shell, image: str, name: str) -> None:
        self._shell, self.name = shell, name
        self.manifest = shell_job(name, image, SCRIPT)
        (replica,) = self.manifest["spec"]["pytorchReplicaSpecs"].values()
        replica["template"]["spec"]["volumes"] = [{"name": "runs", "emptyDir": {}}]
        replica["template"]["spec"]["schedulingGates"] = [{"name": "kctl.dev/test"}]
        self.manifest["metadata"]["labels"] = {"kctl.dev/run": name, "kctl.dev/config": name.rpartition("-")[0]}

    def create(self, *flags: str) -> Job:
        text = self._shell.kubectl("create", "-o", "json", "-f", "-", *flags, stdin=json.dumps(self.manifest))
        return dict(json.loads(text))

    def start(self) -> None:
        """Let its pod start, once there is one that waits."""
        patch = ("--type=json", "-p", '[{"op": "remove", "path": "/spec/schedulingGates"}]')
        deadline = time.monotonic() + 60
        while not self._shell.kubectl("patch", "pod", f"{self.name}-master-0", *patch, check=False):
            assert time.monotonic() < deadline, f"{self.name} has no pod that waits"
            time.sleep(0.2)

    def end(self, code: int) -> None:
        """The running pod ends with a code."""
        self._shell.kubectl("exec", f"{self.name}-master-0", "--", "sh", "-c", f"echo {code} > /runs/code")

    def suspend(self, value: bool) -> None:
        body = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
        self._shell.kubectl("patch", "pytorchjob", self.name, "--type=merge", "-p", body)

    def once(self, kind: str, pods: bool) -> Job:
        """The job once its condition `kind` is True and it has a pod or has none, and it has stayed so for a second."""
        pods_of_it = ("get", "pods", "-l", f"training.kubeflow.org/job-name={self.name}", "-o", "name")
        deadline, former, since = time.monotonic() + 200, "", time.monotonic()
        while time.monotonic() < deadline:
            job = json.loads(self._shell.kubectl("get", "pytorchjob", self.name, "-o", "json"))
            there = self._shell.kubectl(*pods_of_it)
            met = any(one["type"] == kind and one["status"] == "True" for one in _conditions(job))
            now = json.dumps(job) if met and bool(there) is pods else ""
            if now != former:
                former, since = now, time.monotonic()
            elif now and time.monotonic() > since + 1:
                return dict(job)
            time.sleep(0.2)
        raise AssertionError(f"{self.name} is not {kind}: {job['status']}")


def _conditions(job: Job) -> list[dict[str, str]]:
    return list((job.get("status") or {}).get("conditions") or [])


# ----------------------------------------------------------------------------------------------------------------------
# ways through the states; each gives the states it saw


def _ended(led: Led) -> dict[str, Job]:
    seen = {"none": led.create("--dry-run=server")}
    led.create()
    seen["created"] = led.once("Created", pods=True)
    led.start()
    seen["running"] = led.once("Running", pods=True)
    led.end(0)
    return seen | {"succeeded": led.once("Succeeded", pods=True)}


def _failed(led: Led) -> dict[str, Job]:
    led.create()
    led.start()
    led.once("Running", pods=True)
    led.end(1)
    return {"failed": led.once("Failed", pods=True)}


def _restarted(led: Led) -> dict[str, Job]:
    seen = {"restarting": _restarting(led)}
    led.start()
    seen["running-after-restart"] = led.once("Running", pods=True)
    led.end(1)
    return seen | {"failed-after-restart": led.once("Failed", pods=True)}


def _restarting(led: Led) -> Job:
    led.create()
    led.start()
    led.once("Running", pods=True)
    led.end(143)
    return led.once("Restarting", pods=True)


def _suspended(led: Led) -> dict[str, Job]:
    led.create()
    led.start()
    led.once("Running", pods=True)
    led.suspend(True)
    seen = {"suspended": led.once("Suspended", pods=False)}
    led.suspend(False)
    led.start()
    return seen | {"resumed": led.once("Running", pods=True)}


def _suspended_while_restarting(led: Led) -> dict[str, Job]:
    _restarting(led)
    led.suspend(True)
    return {"suspended-while-restarting": led.once("Suspended", pods=False)}


def _suspended_from_the_start(led: Led) -> dict[str, Job]:
    led.manifest["spec"]["runPolicy"] = {"suspend": True}
    led.create()
    return {"suspended-from-the-start": led.once("Suspended", pods=False)}


WAYS: list[Callable[[Led], dict[str, Job]]] = [
    _ended,
    _failed,
    _restarted,
    _suspended,
    _suspended_while_restarting,
    _suspended_from_the_start,
]


def observed(shell: Shell, image: str) -> dict[str, Job]:
    """State -> the job as the operator left it there, without what differs from one time to another."""

    def walked(number: int) -> dict[str, Job]:
        led = Led(shell, image, f"way-{number:08x}")
        return {state: _plain(job, image) for state, job in WAYS[number](led).items()}

    with ThreadPoolExecutor(max_workers=len(WAYS)) as pool:
        ways = list(pool.map(walked, range(len(WAYS))))
    return {state: job for way in ways for state, job in way.items()}


def _plain(job: Job, image: str) -> Job:
    """One name, namespace, image and moment for all; no uid, version or owner of fields."""
    metadata = job["metadata"]
    for field in ("uid", "resourceVersion", "managedFields"):
        metadata.pop(field, None)
    text = json.dumps(job).replace(metadata["name"], NAME).replace(metadata["namespace"], "kctl")
    return dict(_at_one_moment(json.loads(text.replace(image, "registry.example.com/kctl/trainer:0.1.0"))))


def _at_one_moment(value: Any) -> Any:
    if isinstance(value, dict):
        stamped = {name: MOMENT for name in value if name.endswith(("Time", "Timestamp"))}
        return {name: stamped.get(name) or _at_one_moment(one) for name, one in value.items()}
    return [_at_one_moment(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Record all states in a namespace of the test cluster, into statuses/."""
    from tests.cluster.conftest import BIN, RUN

    up = subprocess.run([FOLDER.with_name("up.sh")], stdout=subprocess.PIPE, text=True, check=True)
    shell = Shell(up.stdout.strip(), f"kctl-test-statuses-{secrets.token_hex(3)}", str(BIN / "kubectl"))
    ports = dict(line.split("=") for line in (RUN / "ports.env").read_text().splitlines())
    shell.kubectl("create", "namespace", shell.namespace)
    try:
        found = observed(shell, f"localhost:{ports['REGISTRY']}/busybox:test")
    finally:
        shell.kubectl("delete", "namespace", shell.namespace, "--wait=false")
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for state, job in found.items():
        (FOLDER / f"{state}.json").write_text(json.dumps(job, indent=2) + "\n")
        print(FOLDER / f"{state}.json")


if __name__ == "__main__":
    sys.exit(main())
