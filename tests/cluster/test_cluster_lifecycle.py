"""The cluster of this machine through its ends and beginnings; runs after every other module and leaves it running."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import BIN, GIVEN, HERE, RUN, Measured
from tests.cluster.jobs import shell_job
from tests.cluster.shell import Shell

pytestmark = pytest.mark.skipif(bool(GIVEN), reason="ends the cluster: only the one of this machine")
BRIDGE = Path("/sys/class/net/kctl0")


def _ours() -> list[int]:
    """Pids of the cluster's processes: what runs a binary of its folder, containerd's shims included."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            program = (folder / "cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            continue
        if program.startswith(os.fsencode(BIN) + b"/"):
            found.append(int(folder.name))
    return found


def _containers() -> list[int]:
    """Pids of what runs in the cluster's pods."""
    found = []
    for file in RUN.glob("containerd-state/io.containerd.runtime.v2.task/k8s.io/*/init.pid"):
        group = Path("/proc", file.read_text(), "cgroup")
        if group.exists() and file.parent.name in group.read_text():
            found.append(int(file.read_text()))
    return found


def _lives(pid: int) -> bool:
    """Not gone, and not a zombie whose parent has not looked yet: that has no command line any more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def _kill_everything() -> None:
    """As when the machine's memory runs out at the worst moment: no process of the cluster survives, no pod is told."""
    pids = _ours()
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}
    assert {"etcd", "kubelet", "containerd", "containerd-shim", "kube-proxy", "coredns"} <= names
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for _ in range(100):
        if not _ours():
            return
        time.sleep(0.1)
    raise AssertionError(f"processes {_ours()} do not end")


def _script(name: str) -> str:
    done = subprocess.run([HERE / name], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _assert_nothing_left(containers: list[int]) -> None:
    assert _ours() == []
    assert [pid for pid in containers if _lives(pid)] == []
    assert str(RUN) not in Path("/proc/self/mountinfo").read_text(), "mounts, network namespaces among them"
    assert not BRIDGE.exists()
    for tool in ("iptables-save", "ip6tables-save"):
        assert "KUBE-" not in subprocess.run([tool], check=True, capture_output=True, text=True).stdout
    assert [path for path in Path("/sys/class/net").glob("veth*") if _hangs_in_the_air(path)] == []
    assert list(Path("/sys/fs/cgroup").rglob("kubepods")) == []
    assert not RUN.exists()


def _hangs_in_the_air(veth: Path) -> bool:
    """Whether the other end of a veth pair is in a network namespace that has no name, as a pod's is."""
    link = subprocess.run(["ip", "-o", "link", "show", veth.name], capture_output=True, text=True).stdout
    return bool(re.search(r"link-netnsid", link)) and not (veth / "master").exists()


def _job_succeeds() -> None:
    """An operator-run job of one pod, in a namespace of its own: webhook, scheduler, registry, network, logs."""
    ports = dict(line.split("=") for line in (RUN / "ports.env").read_text().splitlines())
    shell = Shell(str(RUN / "pki/admin.kubeconfig"), f"kctl-test-life-{secrets.token_hex(3)}", str(BIN / "kubectl"))
    shell.kubectl("create", "namespace", shell.namespace)
    shell.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    job = shell_job(
        "life-11111111", f"localhost:{ports['REGISTRY']}/busybox:test", "nslookup kubernetes.default.svc.cluster.local"
    )
    spec = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    spec["volumes"] = [{"name": "runs", "emptyDir": {}}]
    spec["containers"][0]["imagePullPolicy"] = "Always"
    shell.kubectl("create", "-f", "-", stdin=json.dumps(job))
    shell.wait_for("life-11111111", "Succeeded")
    assert "10.214.0.1" in shell.kubectl("logs", "life-11111111-master-0")
    shell.kubectl("delete", "namespace", shell.namespace, "--wait=false")


def test_up_of_a_running_cluster_changes_nothing(kubeconfig: str) -> None:
    before = sorted(_ours())
    assert _script("up.sh") == kubeconfig
    assert set(before) <= set(_ours())


def test_up_completes_a_node_without_containerd(kubeconfig: str) -> None:
    os.kill(int((RUN / "pid/containerd").read_text()), signal.SIGKILL)
    _script("up.sh")
    _job_succeeds()


def test_up_after_everything_was_killed(kubeconfig: str, kubectl_path: str, measured: Measured) -> None:
    """The state is what it was; what ran in pods and had nobody left does not run beside what replaces it."""
    shell = Shell(kubeconfig, "default", kubectl_path)
    shell.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    orphans = _containers()
    assert orphans
    _kill_everything()
    begun = time.monotonic()
    _script("up.sh")
    measured(f"up after kill -9 of everything: {time.monotonic() - begun:.0f} s")
    assert [pid for pid in orphans if pid in _containers()] == []
    assert shell.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"
    _job_succeeds()


def test_down_after_everything_was_killed(kubeconfig: str) -> None:
    containers = _containers()
    _kill_everything()
    _script("down.sh")
    _assert_nothing_left(containers)
    _script("down.sh")


def test_up_directly_after_down(kubeconfig: str, measured: Measured) -> None:
    _script("up.sh")
    containers, begun = _containers(), time.monotonic()
    _script("down.sh")
    down = time.monotonic() - begun
    _assert_nothing_left(containers)
    _script("up.sh")
    measured(f"down {down:.0f} s, up {time.monotonic() - begun - down:.0f} s")
    _job_succeeds()


def _fails(path: str, cache: Path) -> str:
    environment = {"PATH": path, "HOME": str(cache), "KCTL_CACHE": str(cache)}
    done = subprocess.run(["/bin/bash", HERE / "up.sh"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


def test_who_is_not_root_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    said = _fails(f"{tmp_path}:{os.environ['PATH']}", tmp_path)
    assert "needs root" in said and "KUBECONFIG=... make test-cluster" in said


@pytest.mark.parametrize("missing", ["go", "apt-get", "flock"])
def test_a_missing_tool_is_named(missing: str, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "cksum", "dirname", "flock", "id", "mkdir", "realpath", "go", "apt-get"):
        if name != missing:
            (tools / name).symlink_to(str(shutil.which(name)))
    said = _fails(str(tools), tmp_path)
    assert said.startswith(f"tests/cluster: {missing} is missing: ")


def test_a_second_cluster_of_another_folder_is_refused(kubeconfig: str, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    for part in ("bin", "images", "operator", "built"):
        (tmp_path / "cluster" / part).symlink_to(RUN.with_name(part))
    said = _fails(os.environ["PATH"], tmp_path)
    assert f"KCTL_CACHE={RUN.parent.parent} make cluster-down" in said
