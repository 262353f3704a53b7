"""kubectl and kctl as a person runs them, and the operator's part where it is played by a test."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.jobs import OTHER_MANAGER

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Shell:
    """One cluster and namespace."""

    kubeconfig: str
    namespace: str
    kubectl_path: str

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with the cluster chosen; Python finds this checkout's code first."""
        path = os.pathsep.join([str(ROOT), *sys.path])
        return {**os.environ, "KUBECONFIG": self.kubeconfig, "PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1"}

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints on stdout; the test fails with its stderr where it fails."""
        done = self._run(*arguments, stdin=stdin)
        assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def refusal(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints on stderr where it fails; the test fails where it does not."""
        done = self._run(*arguments, stdin=stdin)
        assert done.returncode != 0, f"kubectl {' '.join(arguments)}: {done.stdout}"
        return done.stderr

    def _run(self, *arguments: str, stdin: str | None) -> subprocess.CompletedProcess[str]:
        command = [self.kubectl_path, "-n", self.namespace, *arguments]
        return subprocess.run(command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=60)

    def kctl(self, *arguments: str, timeout: float = 60.0, **more: Any) -> subprocess.CompletedProcess[str]:
        """kctl's exit code, stdout and stderr."""
        command = [sys.executable, "-m", "kctl", *arguments]
        environment = {**self.environment, **more.pop("env", {})}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, **more)

    def play_operator(self, job: str) -> None:
        """From now on the real operator leaves the job of one node alone, as if it had done nothing yet."""
        self.kubectl("wait", "--for=create", f"pod/{job}-master-0", "--timeout=50s")
        other = {"spec": {"runPolicy": {"managedBy": OTHER_MANAGER}}}
        self.kubectl("patch", "pytorchjob", job, "--type=merge", "-p", json.dumps(other))
        self.kubectl("delete", "pods,services", "-l", f"training.kubeflow.org/job-name={job}", "--grace-period=1")
        self.kubectl("patch", "pytorchjob", job, "--subresource=status", "--type=merge", "-p", '{"status": null}')

    def wait_for(self, job: str, condition: str) -> None:
        """Until the operator says so of the job; on failure with what it and the pods say.

        The node pulls one image at a time, and a run's own takes minutes: a small one may have to wait for it.
        """
        wait = ("wait", f"--for=condition={condition}", f"pytorchjob/{job}", "--timeout=50s")
        if not any("met" in self.kubectl(*wait, check=False) for _ in range(4)):
            said = self.kubectl("get", "pytorchjob", job, "-o", "jsonpath={.status}") + self.kubectl("get", "events")
            raise AssertionError(f"{job} is not {condition}: {said}")

    @contextlib.contextmanager
    def made(self, *objects: dict[str, Any]) -> Iterator[None]:
        """Objects that are there inside the block."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("create", "-f", "-", stdin=text)
        try:
            yield
        finally:
            self.kubectl("delete", "-f", "-", "--wait=false", "--ignore-not-found", stdin=text)

    @contextlib.contextmanager
    def quota(self, name: str, hard: dict[str, str]) -> Iterator[None]:
        """A ResourceQuota that is at work inside the block."""
        spec = {"hard": hard}
        with self.made({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec}):
            self.wait_until_counted(name)
            yield

    def wait_until_counted(self, quota: str) -> None:
        """Until the cluster has counted all that the quota limits: before, nothing of it can be made."""
        deadline = time.monotonic() + 90
        while True:
            found = json.loads(self.kubectl("get", "resourcequota", quota, "-o", "json"))
            missing = found["spec"]["hard"].keys() - found.get("status", {}).get("used", {}).keys()
            if not missing:
                return
            assert time.monotonic() < deadline, f"after 90 s quota {quota} does not count {sorted(missing)}"
            time.sleep(0.3)

    def set_conditions(self, job: str, *conditions: str, message: str = "", days_ago: float = 0) -> None:
        """Write the job's status as the operator would: the named conditions True, one after the other."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days_ago * 86400))
        entries = [
            {
                "type": name,
                "status": "True",
                "reason": f"PyTorchJob{name}",
                "message": message,
                "lastUpdateTime": stamp,
                "lastTransitionTime": stamp,
            }
            for name in conditions
        ]
        status = {"status": {"conditions": entries, "replicaStatuses": {}, "startTime": stamp}}
        self.kubectl("patch", "pytorchjob", job, "--subresource=status", "--type=merge", "-p", json.dumps(status))
