"""A node and an operator as far as the rights of kctl's verbs need them, and a volume behind a real receiver."""

import hashlib
import json
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kctl.backends.cluster.volume_pod import LABEL_ROLE
from tests.cluster.kubelet import Kubelet, Log
from tests.cluster.shell import Shell
from tests.cluster.verbs_with_rights import LINGERS, WORKED


class Machinery:
    """The node and the operator, as far as they are needed: kctl's pods run, and what lingers ends."""

    def __init__(self, shell: Shell, kubelet: Kubelet) -> None:
        self._shell, self._over, self._ending = shell, threading.Event(), set[str]()
        self._kubelet = kubelet
        self.node = f"kctl-test-{secrets.token_hex(3)}"
        made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
        shell.kubectl("create", "-f", "-", stdin=json.dumps(made))
        endpoint = {"kubeletEndpoint": {"Port": kubelet.server_address[1]}}
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
        self._status("node", self.node, {"addresses": addresses, "daemonEndpoints": endpoint})
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def runs(self, name: str, container: str) -> None:
        """A pod of this node is running from now on."""
        state = {"running": {"startedAt": "2026-11-25T12:00:00Z"}}
        about = {"name": container, "state": state, "image": "x", "imageID": "x", "ready": True, "restartCount": 0}
        self._status("pod", name, {"phase": "Running", "containerStatuses": [about]})

    def stop(self) -> None:
        """Its jobs, pods and the node go too."""
        self._shell.kubectl("delete", "pytorchjobs", "--all", "--timeout=50s")
        self._over.set()
        self._thread.join()
        self._shell.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
        self._shell.kubectl("delete", "node", self.node)

    def _status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        body = json.dumps({"status": status})
        self._shell.kubectl("patch", kind, name, "--subresource=status", "--type=strategic", "-p", body, check=False)

    def _play(self) -> None:
        while not self._over.wait(0.3):
            for one in json.loads(self._shell.kubectl("get", "pods,pytorchjobs", "-o", "json"))["items"]:
                name, uid = one["metadata"]["name"], one["metadata"]["uid"]
                role = one["metadata"].get("labels", {}).get(LABEL_ROLE)
                if role and one["status"]["phase"] == "Pending":
                    self._bind(name, role)
                elif role == "writer" and "deletionTimestamp" in one["metadata"]:  # a kubelet would
                    self._shell.kubectl("delete", "pod", name, "--grace-period=0", "--force", check=False)
                elif LINGERS in one["metadata"].get("finalizers", ()) and "deletionTimestamp" in one["metadata"]:
                    if uid in self._ending:  # seen a moment ago already: whoever deletes it has looked again
                        none = json.dumps({"metadata": {"finalizers": None}})
                        self._shell.kubectl("patch", "pytorchjob", name, "--type=merge", "-p", none, check=False)
                    self._ending.add(uid)

    def _bind(self, name: str, role: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": self.node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        path = f"/api/v1/namespaces/{self._shell.namespace}/pods/{name}/binding"
        # Fails, and may, where its owner deletes it at this moment.
        self._shell.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding), check=False)
        if role == "eraser":  # what it does in its pod is shown by tests of that
            self._status("pod", name, {"phase": "Succeeded"})
        elif role in ("merge", "export", "generate"):
            self._kubelet.logs[name] = Log([(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), WORKED)], ended=True)
            state = {"terminated": {"exitCode": 0}}
            about = {"name": "pytorch", "state": state, "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
            self._status("pod", name, {"phase": "Succeeded", "containerStatuses": [about]})
        else:
            self.runs(name, role)


@contextmanager
def runs_volume(folder: Path) -> Iterator[int]:
    """A run's folder with an adapter and a report, behind a real trainer.receiver, which reads too; its port here."""
    weights = b"adapter" * 1000
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights.bin").write_bytes(weights)
    (folder / "report.html").write_text("<p>")
    (folder / "generated").mkdir()
    (folder / "generated" / "answers.json").write_text("[]")
    entry = {"size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    (folder / "adapter" / "MANIFEST.json").write_text(json.dumps({"files": {"weights.bin": entry}}))
    command = [sys.executable, "-m", "trainer.receiver", "--port", "0", "--root", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(re.findall(r"\d+$", process.stdout.readline().strip())[0])
        process.terminate()
