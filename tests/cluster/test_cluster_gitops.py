"""The health checks of k8s/argocd and k8s/flux, run by Argo CD's and Flux's own evaluators on statuses of PyTorchJobs.

A file of statuses/ is a whole PyTorchJob; the first word of its name says what state it is in.
"""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import BIN
from tests.cluster.shell import Shell

pytestmark = pytest.mark.timeout(1800)  # the evaluators are built once
HERE = Path(__file__).parent
K8S = HERE.parents[1] / "k8s"
GOLDEN = HERE.parent / "golden" / "manifests" / "case-kueue-openshift.yaml"
STATUSES = sorted((HERE / "statuses").glob("*.json"))

ARGO_CD = {
    "none": "Progressing",
    "created": "Progressing",
    "running": "Healthy",
    "resumed": "Healthy",
    "restarting": "Progressing",
    "succeeded": "Healthy",
    "failed": "Degraded",
    "suspended": "Suspended",
}
UNTIL_THE_END = ARGO_CD | {"running": "Progressing", "resumed": "Progressing"}
FLUX = {
    # An error in CEL, since nothing is said of an object without status: Flux goes on waiting.
    "none": "Unknown",
    "created": "InProgress",
    "running": "Current",
    "resumed": "Current",
    "restarting": "InProgress",
    "succeeded": "Current",
    "failed": "Failed",
    "suspended": "Current",
}


@pytest.fixture(scope="module")
def evaluators() -> Path:
    """Folder of evaluate-argocd and evaluate-flux, built once from their modules."""
    built = subprocess.run([HERE / "evaluators" / "build.sh"], timeout=1800, check=False)
    assert built.returncode == 0, "tests/cluster/evaluators/build.sh failed; its messages stand above"
    return BIN


def _evaluate(program: Path, files: list[Path], objects: list[dict[str, Any]]) -> list[Any]:
    done = subprocess.run([program, *files], input=json.dumps(objects), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    assert len(answers) == len(objects)
    return answers


def _argo_cd(evaluators: Path, config_map: str, folder: Path, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    path = folder / "argocd-cm.yaml"
    path.write_text(config_map)
    return _evaluate(evaluators / "evaluate-argocd", [path, K8S / "argocd" / "application.yaml"], objects)


def _jobs() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in STATUSES]


def _expected(table: dict[str, str]) -> list[str]:
    states = [path.stem.partition("-")[0] for path in STATUSES]
    assert set(states) == set(table), "every state has a recorded status"
    return [table[state] for state in states]


def test_argo_cd_health(shell: Shell, evaluators: Path, tmp_path: Path) -> None:
    shipped = shell.kubectl("kustomize", str(K8S / "argocd"))
    verdicts = _argo_cd(evaluators, shipped, tmp_path, _jobs())
    assert [one["status"] for one in verdicts] == _expected(ARGO_CD)
    assert all(one["message"] for one in verdicts)
    config_map = yaml.safe_load(shipped)
    key = "resource.customizations.health.kubeflow.org_PyTorchJob"
    config_map["data"][key] = (K8S / "argocd" / "health-until-the-end.lua").read_text()
    verdicts = _argo_cd(evaluators, yaml.safe_dump(config_map), tmp_path, _jobs())
    assert [one["status"] for one in verdicts] == _expected(UNTIL_THE_END)


def test_kctl_prints_what_kustomize_makes(shell: Shell) -> None:
    printed = shell.kctl("gitops", "health", "argocd")
    assert yaml.safe_load(printed.stdout) == yaml.safe_load(shell.kubectl("kustomize", str(K8S / "argocd")))


def test_argo_cd_sees_no_drift_in_what_a_queue_changes(shell: Shell, evaluators: Path, tmp_path: Path) -> None:
    git = list(yaml.safe_load_all(GOLDEN.read_text()))[-1]
    queued, changed = copy.deepcopy(git), copy.deepcopy(git)
    queued["spec"]["runPolicy"]["suspend"] = False
    (replica,) = queued["spec"]["pytorchReplicaSpecs"].values()
    template = replica["template"]
    template["spec"]["nodeSelector"] = {"flavor": "h100"}
    template["spec"].setdefault("tolerations", []).append({"key": "flavor", "operator": "Exists"})
    template["metadata"]["labels"]["kueue.x-k8s.io/podset"] = "master"
    template["metadata"].setdefault("annotations", {})["kueue.x-k8s.io/workload"] = "w"
    (replica,) = changed["spec"]["pytorchReplicaSpecs"].values()
    replica["template"]["spec"]["containers"][0]["image"] = "registry.example.com/another:1"
    shipped = shell.kubectl("kustomize", str(K8S / "argocd"))
    verdicts = _argo_cd(evaluators, shipped, tmp_path, [git, queued, changed])
    as_git, as_queued, as_changed = (one["compared"] for one in verdicts)
    assert as_queued == as_git
    assert as_changed != as_git, "an image that was changed is drift"


def test_flux_health(evaluators: Path, tmp_path: Path) -> None:
    (kustomization,) = (
        one for one in yaml.safe_load_all((K8S / "flux" / "runs.yaml").read_text()) if one["kind"] == "Kustomization"
    )
    path = tmp_path / "kustomization.yaml"
    path.write_text(yaml.safe_dump(kustomization))
    assert _evaluate(evaluators / "evaluate-flux", [path], _jobs()) == _expected(FLUX)


def test_the_patch_of_flux_fits_a_rendered_run(shell: Shell, tmp_path: Path) -> None:
    """Flux hands spec.patches to kustomize; so does this."""
    *_, kustomization = yaml.safe_load_all((K8S / "flux" / "runs.yaml").read_text())
    (tmp_path / "run.yaml").write_text(GOLDEN.read_text())
    content = {"resources": ["run.yaml"], "patches": kustomization["spec"]["patches"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    config_map, job = yaml.safe_load_all(shell.kubectl("kustomize", str(tmp_path)))
    before = list(yaml.safe_load_all(GOLDEN.read_text()))
    assert job["metadata"]["annotations"].pop("kustomize.toolkit.fluxcd.io/ssa") == "IfNotPresent"
    assert [config_map, job] == before, "nothing else is changed, so the run keeps its name"


def test_the_examples_name_what_kctl_renders() -> None:
    application = yaml.safe_load((K8S / "argocd" / "application.yaml").read_text())
    source, flux = yaml.safe_load_all((K8S / "flux" / "runs.yaml").read_text())
    assert application["apiVersion"] == "argoproj.io/v1alpha1" and application["kind"] == "Application"
    assert "RespectIgnoreDifferences=true" in application["spec"]["syncPolicy"]["syncOptions"]
    assert source["apiVersion"] == "source.toolkit.fluxcd.io/v1"
    assert flux["apiVersion"] == "kustomize.toolkit.fluxcd.io/v1"
    assert flux["spec"]["sourceRef"] == {"kind": source["kind"], "name": source["metadata"]["name"]}
    job = list(yaml.safe_load_all(GOLDEN.read_text()))[-1]
    (check,) = flux["spec"]["healthCheckExprs"]
    assert (check["apiVersion"], check["kind"]) == (job["apiVersion"], job["kind"])
    assert "suspend" not in job["spec"]["runPolicy"] and "ttlSecondsAfterFinished" not in job["spec"]["runPolicy"]
