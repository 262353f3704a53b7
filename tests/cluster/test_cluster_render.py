"""What kctl renders is what the API server, the operator's CRD, kustomize and the restricted pod standard accept."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.shell import Shell

CONFIGS = sorted(path.stem for path in Path("configs").glob("*.yaml"))
NODES = [1, 2]


def _rendered(shell: Shell, config: str, nodes: int, *more: str) -> str:
    done = shell.kctl("render", config, "--set", f"cluster.nodes={nodes}", "-n", shell.namespace, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_configs() -> None:
    assert {"lora_di3", "full_di3", "demo"} <= set(CONFIGS)


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("config", CONFIGS)
def test_apply_is_clean(shell: Shell, config: str, nodes: int) -> None:
    rendered = _rendered(shell, config, nodes)
    applied = shell.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "name", stdin=rendered)
    kinds = [line.partition("/")[0] for line in applied.split()]
    assert kinds == ["configmap", "pytorchjob.kubeflow.org"]


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("config", ["lora_di3", "demo"])
def test_its_pods_pass_the_restricted_standard(shell: Shell, config: str, nodes: int) -> None:
    job = list(yaml.safe_load_all(_rendered(shell, config, nodes)))[1]
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    template = replica["template"]
    template["metadata"]["name"] = "as-the-operator-makes-it"
    template["spec"]["restartPolicy"] = "Never"
    shell.kubectl("label", "namespace", shell.namespace, "--overwrite", "pod-security.kubernetes.io/enforce=restricted")
    manifest = yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", **template})
    shell.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=manifest)


def test_kustomize_takes_it_as_it_is(shell: Shell, tmp_path: Path) -> None:
    """A folder of kctl gitops, below a kustomization of a person's own."""
    done = shell.kctl("gitops", "render", *CONFIGS, "-o", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    files = [Path(line.removeprefix("added ")) for line in done.stdout.splitlines()]
    kustomization = {"kind": "Kustomization", "namespace": shell.namespace, "resources": ["runs"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    built = list(yaml.safe_load_all(shell.kubectl("kustomize", str(tmp_path))))
    written = [item for path in files for item in yaml.safe_load_all(path.read_text())]
    assert len(written) == 2 * len(CONFIGS)
    for item in written:
        item["metadata"]["namespace"] = shell.namespace
    assert sorted(built, key=_place) == sorted(written, key=_place), "only the namespace is added"
    shell.kubectl("apply", "--dry-run=server", "-k", str(tmp_path))


def _place(item: dict[str, Any]) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def test_a_second_apply_changes_nothing(shell: Shell) -> None:
    rendered = _rendered(shell, "lora_di3", 1)
    assert "created" in shell.kubectl("apply", "-f", "-", stdin=rendered)
    again = shell.kubectl("apply", "-f", "-", stdin=rendered)
    assert again.count("unchanged") == 2
    assert shell.kubectl("diff", "-f", "-", stdin=rendered) == ""
