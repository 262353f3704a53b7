"""A real API server for the tests beside this file: the one of $KUBECONFIG, or one that up.sh starts on this machine.

Every module works in a namespace of its own and removes it.
"""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kctl.backends.cluster.backend import Cluster
from tests.cluster.shell import Shell

HERE = Path(__file__).parent
BIN = Path(os.environ.get("KCTL_CACHE", Path.home() / ".cache" / "kctl")) / "cluster" / "bin"
GIVEN = os.environ.get("KUBECONFIG", "")
"""The user's own cluster, where one is given: then nothing is started or killed."""


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """Of the given cluster, or of the one that up.sh brings up (it stays up; down.sh ends it)."""
    if GIVEN:
        return GIVEN
    up = subprocess.run([HERE / "up.sh"], stdout=subprocess.PIPE, text=True, timeout=1800)
    assert up.returncode == 0, "tests/cluster/up.sh failed; its messages stand above"
    return up.stdout.strip()


@pytest.fixture(scope="session")
def kubectl_path(kubeconfig: str) -> str:
    """The kubectl that was built with the cluster, or the user's own."""
    found = shutil.which("kubectl") if GIVEN else str(BIN / "kubectl")
    assert found, "kubectl is missing: install it"
    return found


@pytest.fixture(scope="module")
def shell(kubeconfig: str, kubectl_path: str, request: pytest.FixtureRequest) -> Iterator[Shell]:
    """A namespace for this module."""
    word = re.sub("[^a-z]", "", request.module.__name__.rpartition("test_")[2])[:16]
    made = Shell(kubeconfig, f"kctl-test-{word}-{secrets.token_hex(3)}", kubectl_path)
    made.kubectl("create", "namespace", made.namespace)
    made.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    yield made
    made.kubectl("delete", "namespace", made.namespace, "--wait=false")


@pytest.fixture()
def cluster(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The backend under test, in the module's namespace."""
    monkeypatch.setenv("KUBECONFIG", shell.kubeconfig)
    return Cluster(shell.namespace, None)
