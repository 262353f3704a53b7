"""kctl render: what is rendered, that it is the same every time, and what is refused. In process, no cluster."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kctl.cli import run
from kctl.config.resolve import shipped_configs
from kctl.errors import UsageError
from kctl.manifest.render import render, to_yaml
from tests.cli.profiles import cases, config, profile
from trainer.schema import contract
from trainer.schema.identity import canonical
from trainer.schema.loading import read_run_file

SHIPPED = sorted(path.stem for path in shipped_configs().glob("*.yaml"))


def pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (replica,) = manifests[1]["spec"]["pytorchReplicaSpecs"].values()
    spec: dict[str, Any] = replica["template"]["spec"]
    return spec


def env(manifests: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in pod(manifests)["containers"][0]["env"]}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_config_map_is_what_the_launcher_accepts(name: str, tmp_path: Path, capfdbinary: Any) -> None:
    assert run(["render", name]) == 0
    config_map, job = yaml.safe_load_all(capfdbinary.readouterr().out)
    (tmp_path / "config.json").write_text(config_map["data"]["config.json"], encoding="utf-8")
    assert read_run_file(tmp_path / "config.json").run == job["metadata"]["name"] == contract_run(config_map)
    digest = hashlib.sha256(config_map["data"]["config.json"].encode()).hexdigest()
    assert config_map["metadata"]["name"] == f"{job['metadata']['name']}-{digest[:6]}"
    assert config_map["immutable"] is True


def contract_run(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["labels"][contract.LABEL_RUN])


def test_the_digest_covers_both_manifests_without_itself() -> None:
    for case in cases().values():
        manifests = render(case.config, case.profile, case.namespace).manifests
        digest = manifests[1]["metadata"].pop("annotations")[contract.ANNOTATION_MANIFEST]
        assert digest == hashlib.sha256(canonical(manifests).encode()).hexdigest()


def test_what_runs_it_does_not_name_it() -> None:
    one, two = config(), config("cluster.nodes=2", "train.ops.log_every=5")
    assert render(one, profile(), None).run == render(two, profile(cpu="4"), "elsewhere").run
    assert render(config("train.lora.rank=32"), profile(), None).run != render(one, profile(), None).run


def test_equal_input_gives_equal_bytes_in_another_process(capfdbinary: Any, tmp_path: Path) -> None:
    assert run(["render", "lora_di3", "-n", "research"]) == 0
    here = capfdbinary.readouterr().out
    command = [sys.executable, "-m", "kctl", "render", "lora_di3", "-n", "research"]
    env = {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo", "HOME": str(tmp_path), "PATH": "/bin"}
    there = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=True).stdout
    assert here == there
    assert here.count(b"namespace: research") == 2


def test_output_formats(capfdbinary: Any) -> None:
    assert run(["render", "lora_di3", "-o", "json"]) == 0
    listed = json.loads(capfdbinary.readouterr().out)
    assert (listed["kind"], listed["apiVersion"]) == ("List", "v1")
    assert run(["render", "lora_di3"]) == 0
    assert list(yaml.safe_load_all(capfdbinary.readouterr().out)) == listed["items"]
    assert run(["render", "lora_di3", "-o", "name"]) == 0
    names = capfdbinary.readouterr().out.decode().split()
    assert names[1].startswith("pytorchjob.kubeflow.org/lora-di3-") and names[0].startswith("configmap/lora-di3-")


def test_one_node_is_a_master_and_several_are_workers_alone() -> None:
    one = render(config(), profile(), None).manifests
    assert list(one[1]["spec"]["pytorchReplicaSpecs"]) == ["Master"]
    assert not any(name.startswith("PET_") for name in env(one))
    rendered = render(config("cluster.nodes=3"), profile(), None)
    replicas = rendered.manifests[1]["spec"]["pytorchReplicaSpecs"]
    assert list(replicas) == ["Worker"] and replicas["Worker"]["replicas"] == 3
    told = env(rendered.manifests)
    assert (told["PET_MASTER_ADDR"], told["PET_NNODES"]) == (f"{rendered.run}-worker-0", "3")
    assert rendered.warnings == [
        "3 nodes without a queue: two half-started runs can block each other; set queue in profile default"
    ]


def test_a_run_on_cpus_asks_for_no_device() -> None:
    manifests = render(config(base="demo"), profile(gpu=None), None).manifests
    assert manifests[1]["spec"]["nprocPerNode"] == "2"
    assert set(pod(manifests)["containers"][0]["resources"]["limits"]) == {"memory"}
    assert (env(manifests)["DS_ACCELERATOR"], env(manifests)["OMP_NUM_THREADS"]) == ("cpu", "1")


def test_a_config_overrides_the_profile_and_defaults_in_env() -> None:
    found = env(render(config("cluster.env={A: x, HOME: /home}"), profile(env={"A": "y", "B": "z"}), None).manifests)
    assert (found["A"], found["B"], found["HOME"]) == ("x", "z", "/home")


def test_claims_that_several_nodes_cannot_mount() -> None:
    claims = {name: {"claim": name} for name in ("models", "data", "runs")}
    for name in claims:
        once = profile(volumes={**claims, name: {"claim": "c", "access_mode": "ReadWriteOnce"}})
        assert render(config(), once, None).warnings == []
        with pytest.raises(UsageError, match=f"cannot mount {name} claim 'c'.*ReadWriteMany"):
            render(config("cluster.nodes=2"), once, None)


def test_a_claim_that_serves_twice_is_one_volume() -> None:
    case = cases()["one-claim-patched"]
    spec = pod(render(case.config, case.profile, None).manifests)
    claims = [item for item in spec["volumes"] if "persistentVolumeClaim" in item]
    assert len(claims) == 1
    mounts = {item["mountPath"]: item for item in spec["containers"][0]["volumeMounts"]}
    assert mounts["/runs"]["subPath"] == "team/runs" and "readOnly" not in mounts["/runs"]
    assert mounts["/models"]["readOnly"] and mounts["/data"]["readOnly"]


def test_the_pod_sees_the_annotation_that_asks_it_to_stop() -> None:
    manifests = render(config(), profile(), None).manifests
    (volume,) = (item for item in pod(manifests)["volumes"] if "downwardAPI" in item)
    (item,) = volume["downwardAPI"]["items"]
    assert item["fieldRef"] == {"fieldPath": "metadata.annotations['kctl.dev/stop']"}
    (mount,) = (one for one in pod(manifests)["containers"][0]["volumeMounts"] if one["name"] == volume["name"])
    assert mount["readOnly"] and "subPath" not in mount, "the kubelet does not renew what is mounted by subPath"
    assert env(manifests)["TRAINER_STOP_WISH"] == f"{mount['mountPath']}/{item['path']}"


def test_gpus_need_a_profile_with_gpus() -> None:
    with pytest.raises(UsageError, match="has no gpu section, got 8"):
        render(config(), profile(gpu=None), None)


@pytest.mark.parametrize("words", ["render lora_di3", "submit lora_di3 --dry-run=client", "status x"])
def test_a_namespace_must_be_one(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words.split(), "-n", "Not_One"]) == 2
    assert "error: --namespace: must be a DNS label" in capsys.readouterr().err


def test_text_from_outside_cannot_change_the_structure() -> None:
    text = 'x"\n  hostNetwork: true # {{ 7 * 7 }} \u2028 \U0001f600'
    run_config = config().model_copy(deep=True)
    told = run_config.train.data.prompt.model_copy(update={"task": text})  # type: ignore[union-attr]
    data = run_config.train.data.model_copy(update={"prompt": told})
    hostile = run_config.model_copy(update={"train": run_config.train.model_copy(update={"data": data})})
    manifests = render(hostile, profile(env={"NOTE": text}), None).manifests
    assert env(manifests)["NOTE"] == text
    assert "hostNetwork" not in pod(manifests)
    assert json.loads(manifests[0]["data"]["config.json"])["train"]["data"]["prompt"]["task"] == text
    assert list(yaml.safe_load_all(to_yaml(manifests))) == manifests
