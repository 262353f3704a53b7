"""kctl doctor from a bare cluster to one that is ready: each step is done as it says, and the next one is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kctl.cli import run as kctl
from kctl.doctor.finding import State
from tests.cli.api_server import ApiServer
from tests.cli.ready_cluster import CORE, DEPLOYMENTS, NODES, Profile, claim, gpu_node, operator, ready, told, written

SPACE = {"metadata": {"name": "team", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
CLAIMS = f"{CORE}/persistentvolumeclaims"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """Nothing is installed; it has a node with GPUs and a storage class."""
    with ready(tmp_path, monkeypatch) as made:
        default = {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
        made.answers = {
            "/version": made.answers["/version"],
            NODES: [gpu_node("n1")],
            DEPLOYMENTS: [],
            CLAIMS: [],
            f"{CORE}/resourcequotas": [],
            "/apis/storage.k8s.io/v1/storageclasses": [{"metadata": default}],
        }
        yield made


@pytest.fixture
def profile(server: ApiServer, tmp_path: Path) -> Profile:
    return written(server, tmp_path)


def test_each_missing_step_in_its_order(
    server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(code: int, *checks: str) -> list[str]:
        exit_code, found = told(capsys, "tiny")
        assert (exit_code, [one["check"] for one in found if one["state"] == State.FAIL]) == (code, list(checks)), found
        assert all(one["check"] == "image" for one in found if one["state"] == State.WARN), found
        return [one["next"] for one in found if one["state"] == State.FAIL]

    profile(image="registry.example.com/kctl/trainer:0.1.0")
    install, base, image = failing(6, "operator", "namespace", "image")
    assert install.startswith('kubectl apply --server-side -k "github.com/kubeflow/training-operator')
    assert "kubectl --context test apply -k k8s/base" in base and image.startswith("make image IMAGE=")

    server.answers |= {"/apis/kubeflow.org/v1": {"resources": []}, DEPLOYMENTS: [operator("v1.9.4")]}
    assert failing(4, "namespace", "image") == [base, image]

    server.answers[CORE] = SPACE  # made by hand: without claims
    claims = failing(4, *["claims"] * 3, "image")[:-1]
    assert all("kubectl --context test -n team apply -f k8s/base/team/volumes.yaml" in one for one in claims)

    server.answers[CLAIMS] = [claim(name) for name in ("models", "data", "runs")]
    assert failing(4, "image") == [image]
    profile()
    assert told(capsys, "tiny") == (0, [])


def test_the_shipped_namespace_is_one_command(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["/apis/kubeflow.org/v1"] = {"resources": []}
    assert kctl(["doctor", "-n", "kctl"]) == 4
    seen = capsys.readouterr()
    assert "there is no namespace kctl; next: kubectl --context test apply -k k8s/base\n" in seen.out
    assert "do what the first one says, then look again" in seen.err


def test_somebody_without_rights_is_told_briefly(
    server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[CORE] = SPACE
    for right in ("get", "list", "watch", "create", "delete", "patch"):
        server.denied |= {(right, resource) for resource in ("pytorchjobs", "pods", "configmaps", "events")}
    found = [one for one in told(capsys, "tiny")[1] if one["check"] == "rights"]
    assert [one["state"] for one in found] == ["fail"] * 4 + ["warn"]
    assert found[-1]["found"].startswith("kctl explain, kctl list, ") and "patch pytorchjobs" in found[-1]["found"]
    assert all("-n team create rolebinding NAME --role=kctl-user --user=NAME" in one["next"] for one in found)
