"""kctl doctor on a real cluster: from a bare namespace to one where a run would start, each step by what it says."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.shell import Shell
from tests.cluster.volumes import claim

pytestmark = pytest.mark.timeout(600)
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "train": {
        "model": {"path": "m"},
        "data": {"path": "d.json", "format": "messages"},
        "lora": {"rank": 4},
        "optim": {"lr": 1e-3},
    },
    "cluster": {"gpus_per_node": 0, "processes_per_node": 1},
}


@dataclass(frozen=True)
class Desk:
    """A working directory with a profile for the cluster; its image is a small one that the registry has."""

    shell: Shell
    folder: Path
    image: str

    def profile(self, cluster: dict[str, Any] | None = None, **changes: Any) -> None:
        volumes = {name: {"claim": name} for name in ("models", "data", "runs")}
        value = {"image": self.image, "volumes": volumes, "cpu": "100m", "memory": "1Gi", "shm": "64Mi"}
        (self.folder / "configs" / "clusters").mkdir(parents=True, exist_ok=True)
        (self.folder / "configs" / "clusters" / "default.yaml").write_text(json.dumps({**value, **changes}))
        config = {**CONFIG, "cluster": {**CONFIG["cluster"], **(cluster or {})}}
        (self.folder / "configs" / "tiny.yaml").write_text(json.dumps(config))

    def doctor(self, *argv: str, **more: Any) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        """(exit code, check -> what it found and is not well)."""
        words = ("doctor", *argv, "-n", self.shell.namespace, "-o", "json")
        done = self.shell.kctl(*words, cwd=self.folder, timeout=120, **more)
        assert done.stdout, done.stderr
        found: dict[str, list[dict[str, Any]]] = {}
        for one in json.loads(done.stdout):
            found.setdefault(one["check"], [])
            if one["state"] != "ok":
                found[one["check"]].append(one)
        return done.returncode, found


@pytest.fixture()
def desk(restricted: Shell, busybox: str, tmp_path: Path) -> Desk:
    made = Desk(restricted, tmp_path, busybox)
    made.profile()
    return made


def test_from_a_bare_namespace(desk: Desk) -> None:
    code, found = desk.doctor()
    assert code == 4 and "there is no claim models (models)" in found["claims"][0]["found"]
    assert not any(found[check] for check in ("server", "namespace", "operator", "rights", "job", "pod"))
    made = [claim(name, "ReadWriteMany", {"storageClassName": "none-yet"}) for name in ("models", "data", "runs")]
    with desk.shell.made(*made):
        code, found = desk.doctor("tiny")
        assert "is Pending" in found["claims"][0]["found"]
        assert "there is no storage class none-yet" in found["storage-class"][0]["found"] and code == 4
    left = desk.shell.kubectl("get", "pytorchjobs,pods,configmaps", "-l", "kctl.dev/run", "-o", "name")
    assert left == "", "nothing is kept"


def test_a_cluster_that_is_ready(desk: Desk, volumes: dict[str, Path]) -> None:
    code, found = desk.doctor("tiny")
    assert code == 0, found
    assert {check for check, bad in found.items() if bad} <= {"config", "image"}, "an image without a digest"
    assert "write image: " + desk.image + "@sha256:" in found["image"][0]["next"]


def test_what_the_namespace_refuses(desk: Desk, volumes: dict[str, Path]) -> None:
    desk.profile(pod_patch={"hostNetwork": True})
    code, found = desk.doctor("tiny")
    assert code == 6 and "enforces Pod Security restricted" in found["pod"][0]["found"]
    desk.profile(pod_patch={"priorityClassName": "no-priority"})
    code, found = desk.doctor("tiny")
    assert code == 6 and "there is no PriorityClass no-priority" in found["pod"][0]["found"]
    desk.profile()
    with desk.shell.quota("small", {"pods": "0"}):
        code, found = desk.doctor("tiny")
        assert code == 6 and "quota small is used up" in found["pod"][0]["found"]
        assert "quota small: 0 pods" in found["quota"][0]["found"]


def test_devices_secrets_and_queues_that_are_not_there(desk: Desk, volumes: dict[str, Path]) -> None:
    desk.profile({"gpus_per_node": 8, "processes_per_node": None}, gpu={"resource": "kctl.dev/none"})
    code, found = desk.doctor("tiny")
    assert code == 4 and "no node offers kctl.dev/none" in found["nodes"][0]["found"]
    desk.profile(pull_secrets=["regcred"], queue={"kind": "kueue", "name": "gpu"})
    code, found = desk.doctor("tiny")
    assert code == 4 and found["secrets"][0]["found"] == "there is no Secret regcred"
    assert "kueue" in found["queue"][0]["found"] or "queue gpu" in found["queue"][0]["found"]
    desk.profile(image="localhost:1/trainer:x")
    assert "does not answer from here" in desk.doctor("tiny")[1]["image"][0]["found"]


def test_somebody_without_rights(desk: Desk, volumes: dict[str, Path]) -> None:
    desk.shell.kubectl("create", "serviceaccount", "nobody")
    config = json.loads(desk.shell.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": desk.shell.kubectl("create", "token", "nobody").strip()}
    path = desk.folder / "kubeconfig"
    path.write_text(json.dumps(config))
    code, found = desk.doctor("tiny", env={"KUBECONFIG": str(path)})
    assert code == 6
    said = " ".join(one["found"] for one in found["rights"])
    for words in ("kctl submit: no right to get pytorchjobs", "kctl pull", "kctl cancel"):
        assert words in said
    assert "not looked at" in found["nodes"][0]["found"] and "not looked at" in found["claims"][0]["found"]


def test_a_namespace_that_is_not_there(desk: Desk) -> None:
    done = desk.shell.kctl("doctor", "-n", "no-such-namespace", cwd=desk.folder, timeout=120)
    assert done.returncode == 4 and "there is no namespace no-such-namespace" in done.stdout
