"""The built images, and their containers as a kubelet runs the pods that kctl renders: any uid, no rights, no network,
a read-only root, /tmp and /dev/shm of their own, volumes. Podman plays the kubelet: it shares buildah's storage.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
IMAGE = os.environ.get("IMAGE") or "localhost:5000/kctl"  # make exports an empty one
"""Tags kctl and trainer of this name are what is built and tested."""


@dataclass(frozen=True)
class Container:
    """How a container of an image runs."""

    image: str
    uid: int = 10001
    environment: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    """As podman takes them: FOLDER:PATH or FOLDER:PATH:ro."""
    read_only: bool = True

    def command(self, *argv: str, entrypoint: str | None = None) -> list[str]:
        """The command line that runs `argv` in it; the image's own entry point unless another is named."""
        # A kubelet adds no user to /etc/passwd. The limits are low because a machine may not let podman raise them.
        user = [
            f"--user={self.uid}:{self.uid}",
            "--passwd=false",
            "--ulimit=nofile=4096:4096",
            "--ulimit=nproc=4096:4096",
        ]
        rights = ["--cap-drop=all", "--security-opt=no-new-privileges", *user]
        places = ["--tmpfs=/tmp:rw,exec,mode=1777", "--shm-size=1g"]
        root = ["--read-only", "--read-only-tmpfs=false", *places] if self.read_only else []
        own = [f"--env={entry}" for entry in self.environment] + [f"--volume={volume}" for volume in self.volumes]
        entry = [] if entrypoint is None else [f"--entrypoint={entrypoint}"]
        return [
            "podman",
            *_runtime(),
            "run",
            "--rm",
            "--pull=never",
            "--network=none",
            *rights,
            *root,
            *own,
            *entry,
            self.image,
            *argv,
        ]

    def run(self, *argv: str, entrypoint: str | None = None, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        command = self.command(*argv, entrypoint=entrypoint)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def ok(self, *argv: str, entrypoint: str | None = None, timeout: float = 200) -> str:
        """Its stdout; the test fails with what it said where it fails."""
        done = self.run(*argv, entrypoint=entrypoint, timeout=timeout)
        said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, f"{' '.join(argv)[:200]}: {done.returncode}\n{said}"
        return done.stdout


def _runtime() -> list[str]:
    """What runs the test cluster's pods, where that is: crun, podman's own choice, refuses hybrid cgroups."""
    from tests.cluster.conftest import BIN

    return [f"--runtime={BIN / 'runc'}"] if (BIN / "runc").exists() else []


def build(**environment: str) -> subprocess.CompletedProcess[str]:
    """`make image` as this machine needs it: two lines on stdout, TARGET and the image's name."""
    return subprocess.run(
        [ROOT / "tests" / "cluster" / "image.sh"],
        env={**os.environ, "IMAGE": IMAGE, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if environment else None,
        text=True,
        timeout=3000,
        check=False,
    )


def inspect(image: str) -> dict[str, Any]:
    """What the image says of itself."""
    done = subprocess.run(["podman", "image", "inspect", image], capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout)
    return dict(found)


def master(manifest: Path) -> dict[str, Any]:
    """The container of a rendered job's Master."""
    (job,) = (one for one in yaml.safe_load_all(manifest.read_text()) if one["kind"] == "PyTorchJob")
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    return dict(container)
