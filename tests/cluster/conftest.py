"""A real cluster for the tests beside this file: the one of $KUBECONFIG, or one that up.sh starts on this machine.

Every module works in a namespace of its own and removes it.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kctl.backends.cluster.backend import Cluster
from tests.cluster.images import build
from tests.cluster.shell import Shell
from tests.cluster.team import Team
from tests.cluster.volumes import NODE, claims_of_the_default_class, folders_as_claims
from tests.training.tiny import SMALL_VOCABULARY, small_tokenizer, tiny_dense
from tests.training.world import WORDS, write_pairs

HERE = Path(__file__).parent
BIN = Path(os.environ.get("KCTL_CACHE", Path.home() / ".cache" / "kctl")).resolve() / "cluster" / "bin"
RUN = BIN.with_name("run")
GIVEN = os.environ.get("KUBECONFIG", "")
"""The user's own cluster, where one is given: then nothing is started or killed."""


ALONE = (
    "test_image",
    "test_pods_demo",
    "test_pods_pull",
    "test_cluster_throughput",
    "test_cluster_many",
    "test_pods_api_faults",
    "test_cluster_watching",
    "test_cluster_lifecycle",
)
"""Modules that measure time, take the API server or the operator away, or end the cluster: nothing runs beside them."""
Measured = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What ends the cluster comes last. Of those not alone, runs in pods go beside the tests of everything else."""
    order = {name: number for number, name in enumerate(ALONE)}
    items.sort(key=lambda item: order.get(item.path.stem, -1))
    for item in items:
        if item.path.stem in ALONE:
            item.add_marker(pytest.mark.alone)
        # What waits for GPUs must not see those of another module; it trains nothing.
        elif item.path.stem.startswith("test_pods") and item.path.stem != "test_pods_pending":
            item.add_marker(pytest.mark.pods)


@pytest.fixture()
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Says a number with its unit and what it is of; printed after the tests, and in their report."""
    return lambda text: record_property("measured", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests measured."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, text in report.user_properties:
                    terminalreporter.write_line(f"{name}: {text}")


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


@pytest.fixture(scope="module")
def restricted(shell: Shell) -> Shell:
    """The module's namespace, which from now on enforces the restricted Pod Security Standard."""
    shell.kubectl("label", "namespace", shell.namespace, "--overwrite", "pod-security.kubernetes.io/enforce=restricted")
    return shell


@pytest.fixture(scope="module")
def volumes(shell: Shell) -> Iterator[dict[str, Path]]:
    """The claims models, data and runs in the module's namespace; their folders where this machine is the cluster."""
    with claims_of_the_default_class(shell) if GIVEN else folders_as_claims(shell, RUN / "volumes") as folders:
        yield folders


@pytest.fixture(scope="session")
def registry(kubeconfig: str) -> str:
    """Where images are pushed to and pods pull from, without TLS; has nothing to do with a given cluster."""
    ports = dict(line.split("=") for line in (RUN / "ports.env").read_text().splitlines())
    return f"localhost:{ports['REGISTRY']}"


@pytest.fixture(scope="session")
def busybox(request: pytest.FixtureRequest) -> str:
    """An image with a shell and its tools: pulled from our registry, or by a given cluster from where it pulls."""
    return "busybox:1.36" if GIVEN else f"{request.getfixturevalue('registry')}/busybox:test"


@pytest.fixture(scope="session")
def rootly(request: pytest.FixtureRequest, busybox: str) -> str:
    """The same image with root as its user, as a given cluster's is."""
    if GIVEN:
        return busybox
    image = busybox.replace(":test", ":root")
    container = _buildah("from", "--tls-verify=false", busybox)
    _buildah("config", "--user=0", container)
    _buildah("commit", "--rm", "--tls-verify=false", container, f"docker://{image}")
    return image


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"buildah {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def gpus(shell: Shell) -> Iterator[None]:
    """The node says that it has 8 GPUs. CPU and memory cannot be made up like this: its kubelet corrects them."""
    if GIVEN:  # has some or has none
        yield
        return
    resource = "nvidia.com/gpu"

    def patch(status: dict[str, dict[str, str | None]]) -> None:
        body = json.dumps({"status": status})
        shell.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", body)

    patch({"capacity": {resource: "8"}})
    allocatable = "jsonpath={.status.allocatable.nvidia\\.com/gpu}=8"
    shell.kubectl("wait", f"--for={allocatable}", f"node/{NODE}", "--timeout=50s")
    yield
    patch({"capacity": {resource: None}, "allocatable": {resource: None}})


@pytest.fixture()
def cluster(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The backend under test, in the module's namespace."""
    monkeypatch.setenv("KUBECONFIG", shell.kubeconfig)
    return Cluster(shell.namespace, None)


@pytest.fixture(scope="session")
def trainer_image(kubeconfig: str, request: pytest.FixtureRequest) -> str:
    """Our image by digest: built from this checkout and pushed to the cluster's registry; or $TRAINER_IMAGE."""
    if GIVEN:
        named = os.environ.get("TRAINER_IMAGE", "")
        assert named, "set TRAINER_IMAGE to the trainer's image in a registry that your cluster pulls from: make image"
        return named
    built = build(IMAGE=f"{request.getfixturevalue('registry')}/kctl", PUSH="1")
    assert built.returncode == 0, built.stdout[-3000:]
    names = dict(line.split() for line in built.stdout.splitlines() if re.fullmatch(r"\w+ \S+@sha256:\w+", line))
    return names["trainer"]


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `dense` with a tiny random model, and the training files of tests.training.world.BASE beside it."""
    root = tmp_path_factory.mktemp("inputs")
    write_pairs(root / "train.jsonl", WORDS, 24)
    write_pairs(root / "held.jsonl", WORDS, 5)
    small_tokenizer(root / "tokenizer", [root / "train.jsonl"])
    tiny_dense(root / "dense", tokenizer=root / "tokenizer", vocabulary=SMALL_VOCABULARY)
    return root


@pytest.fixture(scope="module")
def team(
    restricted: Shell,
    volumes: dict[str, Path],
    trainer_image: str,
    base_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Team:
    """A namespace with filled claims, and a working directory with a profile for it."""
    if not volumes:
        pytest.skip("looks into the claims' folders; on a given cluster test_pods_anywhere.py has a run in pods")
    shutil.copytree(base_model / "dense", volumes["models"] / "dense")
    for name in ("train.jsonl", "held.jsonl"):
        shutil.copy(base_model / name, volumes["data"] / name)
    made = Team(restricted, tmp_path_factory.mktemp("team"), volumes, trainer_image)
    made.profile()
    return made
