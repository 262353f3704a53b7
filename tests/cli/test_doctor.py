"""kctl doctor: a cluster that is ready, and one thing after the other that is missing."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kctl.cli import run as kctl
from kctl.doctor.rights import RIGHTS
from tests.cli.api_server import ApiServer
from tests.cli.ready_cluster import (
    CORE,
    DEPLOYMENTS,
    JOBS,
    KUEUE,
    NODES,
    QUEUES,
    ROOT,
    Profile,
    claim,
    gpu_node,
    operator,
    ready,
    told,
    written,
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ready(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def profile(server: ApiServer, tmp_path: Path) -> Profile:
    return written(server, tmp_path)


def test_a_cluster_that_is_ready(server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["tiny"]):
        assert told(capsys, *argv) == (0, [])
    assert kctl(["doctor", "tiny"]) == 0
    seen = capsys.readouterr()
    for words in (
        "training operator 1.9.4",
        "enforces Pod Security restricted",
        "every verb of kctl works",
        "is run tiny-",
    ):
        assert words in seen.out
    assert "in namespace team of context test: 0 failed, 0 to look at" in seen.err
    assert kctl(["doctor", "-o", "name"]) == 0
    assert "ok claims\n" in capsys.readouterr().out
    assert server.kept == [], "nothing is made but what the server only tries"


def _answer(path: str, answer: Any) -> Callable[[ApiServer], None]:
    return lambda server: server.answers.update({path: answer})


def _claims(*replaced: dict[str, Any]) -> Callable[[ApiServer], None]:
    others = [
        claim(name) for name in ("models", "data", "runs") if name not in [one["metadata"]["name"] for one in replaced]
    ]
    return _answer(f"{CORE}/persistentvolumeclaims", [*others, *replaced])


def _without(verb: str, resource: str) -> Callable[[ApiServer], None]:
    return lambda server: server.denied.add((verb, resource))


_HIDDEN = (403, 'x is forbidden: User "ann" cannot list resource "x"')
_PSS = 'pods "kctl-doctor" is forbidden: violates PodSecurity "restricted:latest": hostNetwork=true'
_HOOK = 'Internal error occurred: failed calling webhook "validator.pytorchjob.training-operator": connection refused'
_TAINT = [{"key": "team", "value": "vision", "effect": "NoSchedule"}]


@pytest.mark.parametrize(
    ("broken", "check", "state", "code", "words"),
    [
        (_answer(CORE, (404, 'namespaces "team" not found')), "namespace", "fail", 4, "there is no namespace team"),
        (_answer("/apis/kubeflow.org/v1", (404, "not found")), "operator", "fail", 6, "is not installed"),
        (_answer(DEPLOYMENTS, [operator("v1.8.1")]), "operator", "warn", 0, "is 1.8.1"),
        (_answer(DEPLOYMENTS, [operator("latest")]), "operator", "warn", 0, "tells no version"),
        (_answer(DEPLOYMENTS, [operator("v1.9.4", 0)]), "operator", "fail", 6, "does not run"),
        (_answer(DEPLOYMENTS, []), "operator", "warn", 0, "no deployment"),
        (_answer(DEPLOYMENTS, _HIDDEN), "operator", "warn", 0, "not looked at"),
        (_without("create", "pytorchjobs"), "rights", "fail", 6, "kctl submit: no right to create pytorchjobs"),
        (_without("patch", "pytorchjobs"), "rights", "warn", 0, "kctl cancel: no right to patch pytorchjobs"),
        (_answer(f"POST {JOBS}", (500, _HOOK)), "job", "fail", 6, "webhook does not answer"),
        (_answer(f"POST {CORE}/pods", (403, _PSS)), "pod", "fail", 6, "enforces Pod Security restricted:latest"),
        (_answer(f"POST {CORE}/pods", (403, "no PriorityClass with name high was found")), "pod", "fail", 6, "high"),
        (_claims(claim("data", phase="Lost")), "claims", "fail", 4, "data (data) is Lost"),
        (_claims(claim("data", phase="Pending")), "claims", "warn", 0, "is Pending"),
        (_claims(claim("runs", "ReadWriteOnce")), "claims", "warn", 0, "runs (runs) is ReadWriteOnce, profile default"),
        (_answer(f"{CORE}/persistentvolumeclaims", []), "claims", "fail", 4, "there is no claim models"),
        (_answer(f"{CORE}/persistentvolumeclaims", _HIDDEN), "claims", "warn", 0, "not looked at"),
        (_answer(NODES, [gpu_node("n1", gpus="0")]), "nodes", "fail", 4, "no node offers nvidia.com/gpu"),
        (
            _answer(NODES, [gpu_node("n1", gpus="4")]),
            "nodes",
            "fail",
            4,
            "asks for 8 nvidia.com/gpu, the largest node has 4",
        ),
        (_answer(NODES, [gpu_node("n1", taints=_TAINT)]), "nodes", "fail", 6, "does not tolerate: team=vision"),
        (_answer(NODES, [gpu_node("n1", unschedulable=True), gpu_node("n2")]), "nodes", "warn", 0, "1 of 2 nodes"),
        (_answer(NODES, _HIDDEN), "nodes", "warn", 0, "not looked at"),
    ],
)
def test_what_is_missing_is_said(
    server: ApiServer,
    profile: Profile,
    capsys: pytest.CaptureFixture[str],
    broken: Callable[[ApiServer], None],
    check: str,
    state: str,
    code: int,
    words: str,
) -> None:
    broken(server)
    exit_code, found = told(capsys, "tiny")
    assert (exit_code, found[0]["check"], found[0]["state"]) == (code, check, state), found
    assert words in found[0]["found"], found


def test_quotas(server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    def quota(hard: str, used: str) -> list[dict[str, Any]]:
        spec = {"hard": {"requests.nvidia.com/gpu": hard, "pods": "100"}}
        return [{"metadata": {"name": "team"}, "spec": spec, "status": {"used": {"requests.nvidia.com/gpu": used}}}]

    for hard, used, state, code in (("16", "8", None, 0), ("16", "16", "warn", 0), ("4", "0", "fail", 6)):
        server.answers[f"{CORE}/resourcequotas"] = quota(hard, used)
        exit_code, found = told(capsys, "tiny")
        assert (exit_code, [one["state"] for one in found]) == (code, [state] if state else [])


def test_secrets_are_looked_for_and_not_read(
    server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    profile(pull_secrets=["regcred"], env={"HF_TOKEN": {"secret": "hub", "key": "token"}})
    code, found = told(capsys, "tiny")
    assert code == 4 and [one["found"] for one in found] == ["there is no Secret regcred", "there is no Secret hub"]
    assert "docker-registry regcred" in found[0]["next"] and "generic hub" in found[1]["next"]
    server.answers |= {f"{CORE}/secrets/{name}": {"metadata": {"name": name}} for name in ("regcred", "hub")}
    assert told(capsys, "tiny") == (0, [])


def test_a_queue(server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    profile(queue={"kind": "kueue", "name": "gpu"})
    code, found = told(capsys, "tiny")
    assert code == 4 and found[0]["found"] == "the cluster has no kueue"
    server.answers |= {KUEUE: {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}, QUEUES: []}
    code, found = told(capsys, "tiny")
    assert code == 4 and found[0]["found"] == "there is no queue gpu"
    server.answers[f"{QUEUES}/gpu"] = {"status": {"conditions": [{"type": "Active", "status": "True"}]}}
    code, found = told(capsys, "tiny")
    assert code == 2 and found[0]["found"] == "a run would start at once, beside queue gpu"
    server.answers[f"POST {JOBS}"] = {"spec": {"runPolicy": {"suspend": True}}}
    assert told(capsys, "tiny") == (0, [])
    server.denied.add(("patch", "workloads"))
    code, found = told(capsys, "tiny")
    assert code == 0 and found[0]["found"] == "kctl cancel: no right to patch workloads"
    assert "kctl-user-kueue" in found[0]["next"]


def test_several_nodes(server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    profile(cluster={"nodes": 2}, rdma={"rdma/ib": 8})
    server.answers[f"{CORE}/persistentvolumeclaims"] = [claim("models"), claim("data"), claim("runs", "ReadWriteOnce")]
    code, found = told(capsys, "tiny")
    said = {one["check"]: one["found"] for one in found}
    assert code == 2 and "2 nodes cannot mount it" in said["claims"]
    assert "without a queue" in said["config"] and "memlock" in said["rdma"] and "rdma/ib" in said["nodes"]


def test_what_the_config_itself_runs_into(
    server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    profile(pod_patch={"containers": [{"name": "pytorch", "readinessProbe": {"tcpSocket": {"port": 1}}}]})
    code, found = told(capsys, "tiny")
    assert code == 2 and "a readinessProbe stops the ranks" in found[0]["found"]
    assert not [one for one in server.requests if one.startswith(f"POST {JOBS}")], "what is not rendered is not tried"
    profile(pod_patch={"hostNetwork": True})
    code, found = told(capsys, "tiny")
    assert code == 0 and "hostNetwork is true" in found[0]["found"]
    assert kctl(["doctor", "absent"]) == 4, "no such config"


def test_images(server: ApiServer, profile: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    host = f"127.0.0.1:{server.server_address[1]}"
    for image, answer, state, words in (
        ("registry.example.com/kctl/trainer:0.1.0", None, "fail", "is the example's name"),
        (f"{host}/trainer:new", None, "fail", "has no trainer new"),
        (f"{host}/trainer:private", (401, "login"), "warn", "wants a login"),
        (f"{host}/trainer:there", {}, None, ""),
        ("127.0.0.1:1/trainer:x", None, "warn", "does not answer from here"),
    ):
        profile(image=image)
        if answer is not None:
            server.answers[f"/v2/trainer/manifests/{image.rpartition(':')[2]}"] = answer
        _, found = told(capsys, "tiny")
        own = [one for one in found if one["check"] == "image"]
        assert [one["state"] for one in own] == ([state] if state else ["warn"]), found
        assert words in own[0]["found"]


def test_the_rights_are_those_of_the_document() -> None:
    lines = (ROOT / "k8s" / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.count("|") == 9]
    head, _, *verbs = rows
    documented = {
        row[0]: {
            (right, resource) for resource, cell in zip(head[1:-1], row[1:-1], strict=True) for right in cell.split()
        }
        for row in verbs
    }
    for verb, rights in RIGHTS.items():
        assert set(rights) == documented[verb], verb
    assert {re.sub(" .*", "", verb) for verb in documented} == set(RIGHTS)
