"""kubectl and kctl as a person runs them, and the operator's part where it is played by a test."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shell:
    """One cluster and namespace."""

    kubeconfig: str
    namespace: str
    kubectl_path: str

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with the cluster chosen."""
        return {**os.environ, "KUBECONFIG": self.kubeconfig, "COLUMNS": "200", "NO_COLOR": "1"}

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints on stdout; the test fails with its stderr where it fails."""
        done = subprocess.run(
            [self.kubectl_path, "-n", self.namespace, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def kctl(self, *arguments: str, timeout: float = 60.0, **more: Any) -> subprocess.CompletedProcess[str]:
        """kctl's exit code, stdout and stderr."""
        command = [str(Path(sys.executable).with_name("kctl")), *arguments]
        environment = {**self.environment, **more.pop("env", {})}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, **more)

    def set_conditions(self, job: str, *conditions: str, message: str = "") -> None:
        """Write the job's status as the operator would: the named conditions True, one after the other."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
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
