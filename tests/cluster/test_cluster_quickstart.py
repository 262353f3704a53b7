"""README's way from nothing to an adapter on a cluster, executed word for word; only the registry is this cluster's.
First what doctor says there: the commands of the way, in its order.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.inputs import prepare
from tests.cluster.conftest import GIVEN, RUN, Measured
from tests.cluster.shell import ROOT, Shell
from tests.cluster.volumes import folders_as_volumes
from trainer.adapters import verify_adapter

pytestmark = [
    pytest.mark.skipif(bool(GIVEN), reason="applies to namespace kctl and for the whole cluster; pushes an image"),
    pytest.mark.timeout(1500),
]
BUILD_FLAGS = "--isolation chroot --pull=never --network host -v /etc/ssl/certs:/etc/ssl/certs:ro"


def _way() -> tuple[str, str]:
    """(what README says to type on a bare cluster, its block, with what it calls the reader's own made ours)."""
    section = (ROOT / "README.md").read_text().partition("## From nothing to an adapter on your cluster")[2]
    first = re.search(r"`(kctl doctor .*?)`", section)
    block = re.search(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert first and block and block[1].count("# yours") == 1
    return first[1], block[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, kubectl_path: str) -> Path:
    """A copy of this checkout after `make demo`, and in `.bin` what an active .venv and a PATH would find."""
    copy = tmp_path_factory.mktemp("quickstart") / "kctl"
    hidden = shutil.ignore_patterns(".[!d]*", "__pycache__", "*.egg-info", "adapters", "build", "dist")
    shutil.copytree(ROOT, copy, ignore=hidden)
    prepare(copy / ".kctl")
    (copy / ".bin").mkdir()
    (copy / ".bin" / "kctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m kctl "$@"\n')
    (copy / ".bin" / "kctl").chmod(0o755)
    (copy / ".bin" / "kubectl").symlink_to(kubectl_path)
    return copy


@pytest.fixture(scope="module")
def claims(kubeconfig: str, kubectl_path: str) -> Iterator[Shell]:
    """The namespace kctl, which does not exist yet, and the storage that its claims will get."""
    administrator = Shell(kubeconfig, "kctl", kubectl_path)
    with folders_as_volumes(administrator, RUN / "volumes"):
        yield administrator
        administrator.kubectl("delete", "-k", str(ROOT / "k8s" / "base"), "--ignore-not-found", "--timeout=50s")


def test_quickstart(checkout: Path, claims: Shell, registry: str, trainer_image: str, measured: Measured) -> None:
    secret = " --secret id=pip,src=/etc/pip.conf" if Path("/etc/pip.conf").exists() else ""
    ours = {"BUILDER": "buildah", "BUILD_FLAGS": BUILD_FLAGS + secret, "PUSH_FLAGS": "--tls-verify=false"}
    environment = {
        **claims.environment,
        **ours,
        "PATH": f"{checkout / '.bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{checkout}:{claims.environment['PYTHONPATH']}",
    }
    first, block = _way()
    told = claims.kctl(*first.split()[1:], timeout=120)
    assert told.returncode == 4, told.stdout + told.stderr
    steps = [told.stdout.index(words) for words in ("apply -k k8s/base\n", "make image IMAGE=REGISTRY/kctl PUSH=1")]
    assert steps == sorted(steps)
    begun = time.monotonic()
    done = subprocess.run(
        ["bash", "-exuo", "pipefail", "-c", block.replace("registry.example.com", registry)],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1400,
        check=False,
    )
    said = done.stdout[-6000:]
    assert done.returncode == 0, said + claims.kubectl("get", "pods,events", check=False)
    measured(f"README's quickstart: {time.monotonic() - begun:.0f} s")
    assert "step=2/2" in done.stdout and "sha256 checked" in done.stdout, said
    adapter, report = sorted((checkout / "adapters").iterdir())
    verify_adapter(adapter)
    assert adapter.name.startswith("first-") and report.name == f"{adapter.name}.html"
