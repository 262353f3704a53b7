"""kctl diff on runs of this machine, and what it takes for a difference on objects of a cluster."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kctl.backends.local.backend import Local
from kctl.cli import run
from kctl.manifest.differences import of_a_live_run
from kctl.manifest.render import render
from tests.cli.profiles import DIGEST, config, profile

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "train": {
        "model": {"path": "m"},
        "data": {"path": "d.json", "format": "messages"},
        "lora": {"rank": 4},
        "optim": {"lr": 1e-3},
    },
    "cluster": {"profile": "quick", "gpus_per_node": 0, "processes_per_node": 1},
}
PROFILE: dict[str, Any] = {
    "image": DIGEST,
    "volumes": {name: {"claim": name} for name in ("models", "data", "runs")},
    "cpu": 1,
    "memory": "1Gi",
    "shm": "64Mi",
    "pod_patch": {"containers": [{"name": "pytorch", "command": ["python", "-c", "pass", "trainer.launch"]}]},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run that has succeeded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCTL_LOCAL", raising=False)
    (tmp_path / "clusters").mkdir()
    write(tmp_path)
    assert run(["submit", "tiny.yaml", "--local", "--wait"]) == 0
    yield tmp_path
    for job in Local(tmp_path / ".kctl").list_jobs():
        Local(tmp_path / ".kctl").delete(job["metadata"]["name"], 20)


def write(folder: Path, rank: int = 4, **profile: Any) -> None:
    (folder / "clusters" / "quick.yaml").write_text(yaml.safe_dump({**PROFILE, **profile}))
    train = {**CONFIG["train"], "lora": {"rank": rank}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**CONFIG, "train": train}))


def diff(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["diff", "tiny.yaml", "--local", *flags])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_as_it_was_submitted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = diff(capsys)
    assert (code, out) == (0, "") and "(Succeeded) is as tiny.yaml renders it" in err
    assert json.loads(diff(capsys, "-o", "json")[1])["differences"] == []


def test_another_profile_is_the_same_run_otherwise(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, cpu=2, node_selector={"gpu": "h100"})
    code, out, err = diff(capsys)
    assert code == 1 and "what a submit would do: kctl submit tiny.yaml --local --dry-run=server" in err
    assert [line.split() for line in out.splitlines()] == [
        ["FIELD", "THERE", "CONFIG"],
        ["pod.containers[pytorch].resources.requests.cpu", "1", "2"],
        ["pod.nodeSelector.gpu", "-", "h100"],
    ]


def test_another_content_is_compared_with_the_newest_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["list", "--local", "-o", "name"]) == 0
    there = capsys.readouterr().out.strip()
    write(folder, rank=8)
    code, out, err = diff(capsys, "-o", "json")
    said = json.loads(out)
    assert code == 1 and f"pytorchjob.kubeflow.org/{said['there']}" == there and said["run"] != said["there"]
    assert said["differences"] == [{"field": "train.lora.rank", "there": "4", "config": "8"}]
    assert f"is run {said['run']} today, which is not there; compared with {said['there']} (Succeeded)" in err
    assert diff(capsys, "-o", "name")[1].strip() == there


def test_nothing_there(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCTL_LOCAL", str(folder / "elsewhere"))
    code, out, err = diff(capsys)
    assert (code, out) == (1, "") and "kctl submit tiny.yaml --local creates it" in err


def live(**spec: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """(objects there, what is rendered, the pod's spec there)."""
    wanted = render(config(), profile(**spec), None).manifests
    there = copy.deepcopy(wanted)
    (replica,) = there[1]["spec"]["pytorchReplicaSpecs"].values()
    pod: dict[str, Any] = replica["template"]["spec"]
    return there, wanted, pod


def test_what_a_cluster_adds_is_no_difference() -> None:
    there, wanted, pod = live(tolerations=[{"key": "gpu", "operator": "Exists"}], node_selector={"zone": "a"})
    job = there[1]
    job["metadata"] |= {"uid": "u", "namespace": "kctl", "resourceVersion": "7", "managedFields": [{}]}
    job["metadata"]["labels"]["app.kubernetes.io/instance"] = "runs"
    job["metadata"]["annotations"]["kctl.dev/cancelled"] = "yes"
    job["spec"]["runPolicy"]["suspend"] = True
    job["status"] = {"conditions": []}
    pod["tolerations"].append({"key": "flavor"})
    pod["nodeSelector"]["flavor"] = "h100"
    assert of_a_live_run(there, wanted) == []
    pod["nodeSelector"]["zone"] = "b"
    pod["tolerations"].pop(0)
    assert [one.field for one in of_a_live_run(there, wanted)] == ["pod.nodeSelector.zone", "pod.tolerations"]


def test_what_somebody_changed_is_one_and_secrets_are_not_shown() -> None:
    there, wanted, pod = live()
    container = pod["containers"][0]
    container["env"] += [{"name": "HUB_TOKEN", "value": "o" * 20}, {"name": "X", "value": "hf_" + "a" * 20}]
    pod["containers"].append({"name": "sidecar", "env": [{"name": "PASSWORD", "value": "hunter2"}]})
    container["image"] = "other:1"
    del there[0]
    found = {one.field: one.columns[1:] for one in of_a_live_run(there, wanted)}
    assert found["pod.containers[pytorch].image"] == ("other:1", DIGEST)
    hidden = ("(looks like a secret)", "-")
    assert found["pod.containers[pytorch].env[HUB_TOKEN]"] == found["pod.containers[pytorch].env[X]"] == hidden
    assert found["pod.containers[sidecar].env[PASSWORD]"] == hidden
    assert found["train.lora.rank"] == ("-", "64")
