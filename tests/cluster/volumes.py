"""The three claims of a namespace that runs need. On the cluster of this machine they are folders of it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.shell import Shell

CLAIMS = ("models", "data", "runs")
NODE = "kctl-node"


def claim(name: str, mode: str, bound: dict[str, str]) -> dict[str, Any]:
    """A claim of 1 GiB; `bound` says to what."""
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}, **bound}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def bound_to(name: str, shell: Shell) -> dict[str, str]:
    """What a claim says of the volume that `volume` makes for it."""
    return {"storageClassName": "", "volumeName": f"{shell.namespace}-{name}"}


def volume(name: str, shell: Shell, path: Path) -> dict[str, Any]:
    """Of type local: unlike on a hostPath, the kubelet gives its files to the pod's fsGroup."""
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
    spec = {
        "capacity": {"storage": "1Ti"},  # a local volume keeps nobody to it
        "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
        "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": shell.namespace, "name": name},
        "local": {"path": str(path)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
    }
    metadata = {"name": f"{shell.namespace}-{name}"}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


@contextmanager
def folders_as_claims(shell: Shell, root: Path) -> Iterator[dict[str, Path]]:
    """Claim -> folder below `root`; pods, claims and folders are removed at the end."""
    with folders_as_volumes(shell, root) as folders:
        for name in folders:
            made = claim(name, "ReadWriteMany", bound_to(name, shell))
            shell.kubectl("create", "-f", "-", stdin=json.dumps(made))
        shell.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "pvc", "--all", "--timeout=50s")
        yield folders
        for kind in ("pytorchjobs", "pods", "persistentvolumeclaims"):
            shell.kubectl("delete", kind, "--all", "--timeout=50s")


@contextmanager
def folders_as_volumes(shell: Shell, root: Path) -> Iterator[dict[str, Path]]:
    """Claim -> folder below `root`, which the claim of that name gets when somebody makes it."""
    folders = {name: root / shell.namespace / name for name in CLAIMS}
    for name, path in folders.items():
        path.mkdir(parents=True)
        shell.kubectl("create", "-f", "-", stdin=json.dumps(volume(name, shell, path)))
    yield folders
    shell.kubectl("delete", "persistentvolume", *(f"{shell.namespace}-{name}" for name in CLAIMS))
    shutil.rmtree(root / shell.namespace)


@contextmanager
def disk_as_claim(shell: Shell, name: str, path: Path, mebibytes: int) -> Iterator[Path]:
    """One more claim, which is a disk of this size at `path`; all jobs of the namespace are removed at its end."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "disk", path], check=True)
    bound = claim(name, "ReadWriteMany", bound_to(name, shell))
    for made in (volume(name, shell, path), bound):
        shell.kubectl("create", "-f", "-", stdin=json.dumps(made))
    yield path
    for kind in ("pytorchjobs", "pods"):
        shell.kubectl("delete", kind, "--all", "--timeout=50s")
    shell.kubectl("delete", "persistentvolumeclaim", name, "--timeout=50s")
    shell.kubectl("delete", "persistentvolume", f"{shell.namespace}-{name}", "--timeout=50s")
    subprocess.run(["umount", path], check=True)


def resize(path: Path, mebibytes: int) -> None:
    """Give the disk at `path` another size; who uses it need not know."""
    subprocess.run(["mount", "-o", f"remount,size={mebibytes}m", path], check=True)


@contextmanager
def claims_of_the_default_class(shell: Shell) -> Iterator[dict[str, Path]]:
    """On a cluster of the user's: its own storage, which no folder of this machine shows; its namespace removes it."""
    for name in CLAIMS:
        shell.kubectl("create", "-f", "-", stdin=json.dumps(claim(name, "ReadWriteOnce", {})))
    yield {}
