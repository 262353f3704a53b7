"""Logs and files through the real API server; behind it stands tests/cluster/kubelet.py, which plays a node."""

import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kctl.backends.cluster.backend import Cluster
from kctl.errors import NotFound
from tests.cluster.conftest import GIVEN
from tests.cluster.jobs import job, pod
from tests.cluster.kubelet import Kubelet, Log, serving
from tests.cluster.shell import Shell

pytestmark = pytest.mark.skipif(bool(GIVEN), reason="registers a node that only this machine can reach")


class Node:
    """A node of the cluster whose kubelet the test plays, and the pods on it."""

    def __init__(self, shell: Shell, kubelet: Kubelet) -> None:
        self.shell, self.kubelet = shell, kubelet
        self.name = f"kctl-test-{secrets.token_hex(3)}"
        # Of the pods of others none shall come here.
        about = {"metadata": {"name": self.name}, "spec": {"unschedulable": True}}
        shell.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Node", **about}))
        endpoint = {"kubeletEndpoint": {"Port": kubelet.server_address[1]}}
        status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": endpoint}
        self._patch("node", self.name, {"status": status})

    def run(self, name: str, run: str) -> Log:
        """A pod on this node whose container has not started."""
        self.shell.kubectl("create", "-f", "-", stdin=json.dumps(pod(name, run, node=self.name)))
        self.kubelet.logs[name] = Log()
        return self.kubelet.logs[name]

    def set_state(self, name: str, phase: str, container: str = "pytorch") -> None:
        """Running, Succeeded or Failed."""
        stamp = "2026-11-23T23:15:00Z"
        ended = {"terminated": {"exitCode": 0 if phase == "Succeeded" else 1, "startedAt": stamp, "finishedAt": stamp}}
        state = {"running": {"startedAt": stamp}} if phase == "Running" else ended
        about = {"name": container, "state": state, "image": "x", "imageID": "x", "ready": True, "restartCount": 0}
        self._patch("pod", name, {"status": {"phase": phase, "containerStatuses": [about]}})

    def take(self, name: str, container: str = "reader") -> None:
        """The scheduler's and the kubelet's part for a pod that kctl creates: bind it here and run it."""
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"kind": "Node", "name": self.name},
        }
        path = f"/api/v1/namespaces/{self.shell.namespace}/pods/{name}"
        for _ in range(100):
            if self.shell.kubectl("get", "pod", name, "--ignore-not-found"):
                break
            time.sleep(0.1)
        self.shell.kubectl("create", "--raw", f"{path}/binding", "-f", "-", stdin=json.dumps(binding))
        self.set_state(name, "Running", container)

    def _patch(self, kind: str, name: str, body: object) -> None:
        self.shell.kubectl("patch", kind, name, "--subresource=status", "--type=strategic", "-p", json.dumps(body))


@pytest.fixture(scope="module")
def node(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    shell.kubectl("label", "namespace", shell.namespace, "pod-security.kubernetes.io/enforce=restricted")
    with serving(tmp_path_factory.mktemp("kubelet")) as kubelet:
        made = Node(shell, kubelet)
        yield made
        shell.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
        shell.kubectl("delete", "node", made.name)


def _lines(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Seven lines a second, with characters of several bytes."""
    return [
        (
            f"2026-11-23T23:{15 + number // 420:02d}:{number // 7 % 60:02d}.{number % 7:09d}Z",
            f"line {number} \u00e9\u4e2d\U0001f600",
        )
        for number in range(start, start + count)
    ]


def test_a_finished_log_whole_and_since(cluster: Cluster, node: Node) -> None:
    log = node.run("whole-11111111-master-0", "whole-11111111")
    log.lines, log.ended = _lines(500), True
    node.set_state("whole-11111111-master-0", "Succeeded")
    assert list(cluster.log_lines("whole-11111111-master-0", False, None)) == log.lines
    since = list(cluster.log_lines("whole-11111111-master-0", True, "2026-11-23T23:15:30Z"))
    assert since == [line for line in log.lines if line[0] >= "2026-11-23T23:15:30"]
    with pytest.raises(NotFound, match="nobody-00000000-master-0"):
        list(cluster.log_lines("nobody-00000000-master-0", False, None))


def test_following_through_cuts_gives_each_line_once(cluster: Cluster, node: Node) -> None:
    log = node.run("cuts-11111111-master-0", "cuts-11111111")
    log.lines, log.cuts = _lines(200), [0, 3, 50, 20, 60]
    node.set_state("cuts-11111111-master-0", "Running")

    def grow() -> None:
        for number in range(200, 400, 40):
            time.sleep(0.4)
            log.lines += _lines(40, number)
        while log.cuts:  # the pod outlives every cut, however slow the machine
            time.sleep(0.02)
        log.ended = True
        node.set_state("cuts-11111111-master-0", "Succeeded")

    growing = threading.Thread(target=grow)
    growing.start()
    assert list(cluster.log_lines("cuts-11111111-master-0", True, None)) == _lines(400)
    growing.join()
    assert log.requests >= 6


def test_follow_waits_for_the_container_to_start(cluster: Cluster, node: Node) -> None:
    log = node.run("slow-11111111-master-0", "slow-11111111")
    assert list(cluster.log_lines("slow-11111111-master-0", False, None)) == []

    def begin() -> None:
        time.sleep(1)
        log.lines, log.ended = _lines(3), True
        node.set_state("slow-11111111-master-0", "Succeeded")

    starting = threading.Thread(target=begin)
    starting.start()
    assert list(cluster.log_lines("slow-11111111-master-0", True, None)) == _lines(3)
    starting.join()


def test_follow_ends_when_the_pod_is_deleted(cluster: Cluster, node: Node, shell: Shell) -> None:
    log = node.run("away-11111111-master-0", "away-11111111")
    log.lines, log.cuts = _lines(5), [5]
    node.set_state("away-11111111-master-0", "Running")
    lines = cluster.log_lines("away-11111111-master-0", True, None)
    assert next(lines) == _lines(1)[0]
    shell.kubectl("delete", "pod", "away-11111111-master-0", "--grace-period=0", "--force")
    assert list(lines) == _lines(4, 1)


@pytest.fixture()
def runs(tmp_path: Path, node: Node) -> Iterator[Path]:
    """A run's folder, served by a real trainer.reader behind the node's port 8479."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights.bin").write_bytes(os.urandom(64 * 2**20))
    (tmp_path / "adapter" / "MANIFEST.json").write_text("{}")
    (tmp_path / "empty").write_text("")
    command = [sys.executable, "-m", "trainer.reader", "--port", "0", "--root", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        node.kubelet.ports[8479] = int(re.findall(r"\d+$", process.stdout.readline().strip())[0])
        yield tmp_path
        process.terminate()


def _rendered(run: str) -> dict[str, object]:
    """A job with what the reader takes from it."""
    made = job(run, **{"kueue.x-k8s.io/queue-name": "lq"})
    spec = made["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    spec["containers"][0]["volumeMounts"] = [{"name": "runs", "mountPath": "/runs", "subPath": "team"}]
    spec["volumes"] = [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
    spec["securityContext"] = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec["tolerations"] = [{"key": "gpu", "operator": "Exists"}]
    spec["imagePullSecrets"] = [{"name": "pull"}]
    return made


def test_files_through_a_reader_pod(cluster: Cluster, node: Node, shell: Shell, runs: Path) -> None:
    cluster.create([_rendered("files-11111111")])
    name = "files-11111111-reader"
    taking = threading.Thread(target=node.take, args=(name,))
    taking.start()
    with cluster.files("files-11111111") as files:
        assert files.names("") == ["empty"] and files.names("absent") == []
        assert files.names("adapter") == ["MANIFEST.json", "weights.bin"]
        assert b"".join(files.read("empty")) == b"" == b"".join(files.read("empty", 5))
        digest = hashlib.sha256()
        for chunk in files.read("adapter/weights.bin"):
            digest.update(chunk)
        content = (runs / "adapter" / "weights.bin").read_bytes()
        assert digest.digest() == hashlib.sha256(content).digest()
        assert b"".join(files.read("adapter/weights.bin", 60_000_001)) == content[60_000_001:]
        with pytest.raises(NotFound, match="adapter/absent is not on the runs volume"):
            next(files.read("adapter/absent"))
        partial = files.read("adapter/weights.bin")
        next(partial)
        partial.close()  # type: ignore[attr-defined]
    taking.join()
    made = json.loads(shell.kubectl("get", "pod", name, "-o", "json"))
    spec = made["spec"]
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lq"
    assert "training.kubeflow.org/job-name" not in made["metadata"]["labels"], (
        "the operator must not take it for its own"
    )
    assert spec["containers"][0]["volumeMounts"] == [
        {"name": "runs", "mountPath": "/runs", "subPath": "team", "readOnly": True}
    ]
    assert spec["securityContext"]["runAsUser"] == 1000 and {"name": "pull"} in spec["imagePullSecrets"]
    with cluster.files("files-11111111") as files:
        started = time.monotonic()
        assert next(files.read("adapter/MANIFEST.json")) == b"{}"
    assert time.monotonic() - started < 1, "a reader that runs is used again"


def test_a_reader_that_has_ended_is_replaced(cluster: Cluster, node: Node, shell: Shell, runs: Path) -> None:
    cluster.create([_rendered("again-11111111")])
    name = "again-11111111-reader"
    for _ in range(2):
        taking = threading.Thread(target=node.take, args=(name,))
        taking.start()
        with cluster.files("again-11111111") as files:
            assert files.names("") == ["empty"]
        taking.join()
        node.set_state(name, "Succeeded", "reader")


def test_folders_of_many_runs_through_one_reader(cluster: Cluster, node: Node, runs: Path) -> None:
    jobs = [_rendered("many-11111111"), _rendered("many-22222222"), job("bare-11111111")]
    cluster.create(jobs[:1])
    cluster.create(jobs[1:2])
    for name in ("many-11111111", "many-22222222"):
        (runs / name).mkdir()
        (runs / name / "config.json").write_text(name)
    there = [found for name in ("many-11111111", "many-22222222") if (found := cluster.get_job(name))]
    taking = threading.Thread(target=node.take, args=("many-11111111-catalog", "catalog"))
    taking.start()
    with cluster.folders([*there, jobs[2]]) as folders:
        assert {name: b"".join(files.read("config.json")).decode() for name, files in folders.items()} == {
            name: name for name in ("many-11111111", "many-22222222")
        }
        assert folders["many-22222222"].names("") == ["config.json"]
        with pytest.raises(NotFound, match=r"absent\.json is not on the runs volume"):
            next(folders["many-11111111"].read("absent.json"))
    taking.join()


def test_files_of_a_job_that_is_gone(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="there is no job gone-99999999"), cluster.files("gone-99999999"):
        pass
