"""What k8s/ gives, on a real API server: it applies, fits what kctl renders, and keeps live runs as they are.

The team's part goes to the module's namespace. Of the cluster's part copies with names of their own are bound to that
namespace only, so that a cluster which somebody uses is left as it is.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import GIVEN
from tests.cluster.jobs import job
from tests.cluster.shell import Shell

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
GOLDEN = sorted((ROOT / "tests" / "golden" / "manifests").glob("*.yaml"))
ABSENT = ("kueue.x-k8s.io/", "argoproj.io/", "source.toolkit.fluxcd.io/", "kustomize.toolkit.fluxcd.io/")
"""API groups of the examples that the test cluster does not have."""


def built(shell: Shell, folder: Path, namespace: str | None = None, work: Path | None = None) -> list[dict[str, Any]]:
    """The objects of a kustomization, moved to `namespace` by an overlay in `work` as k8s/overlays/team does it."""
    if namespace is not None and work is not None:
        resources = [os.path.relpath(folder, work.resolve())]
        content = {"namespace": namespace, "resources": resources, "sortOptions": {"order": "fifo"}}
        (work / "kustomization.yaml").write_text(yaml.safe_dump(content))
        folder = work
    return list(yaml.safe_load_all(shell.kubectl("kustomize", str(folder))))


def apply(shell: Shell, objects: list[dict[str, Any]], *flags: str) -> str:
    return shell.kubectl("apply", *flags, "-f", "-", stdin=yaml.safe_dump_all(objects))


@pytest.fixture(scope="module")
def team(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The objects of base/team, applied in the module's namespace."""
    objects = built(shell, K8S / "base" / "team", shell.namespace, tmp_path_factory.mktemp("team"))
    apply(shell, objects)
    shell.wait_until_counted("team")
    return objects


@pytest.fixture(scope="module")
def policy(shell: Shell) -> Iterator[None]:
    """The policy of base/cluster, for the module's namespace only, and at work."""
    objects = [one for one in built(shell, K8S / "base" / "cluster") if one["kind"].startswith("Validating")]
    for one in objects:
        one["metadata"]["name"] = f"{shell.namespace}-{one['metadata']['name']}"
    binding = next(one for one in objects if one["kind"].endswith("Binding"))
    binding["spec"]["policyName"] = f"{shell.namespace}-{binding['spec']['policyName']}"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": shell.namespace}}
    binding["spec"]["matchResources"] = {"namespaceSelector": selector}
    apply(shell, objects)
    shell.kubectl("create", "-f", "-", stdin=json.dumps(job("probe-11111111")))
    deadline = time.monotonic() + 60
    while not _change(shell, "probe-11111111", _image("probe:1"), "--dry-run=server").stderr:
        assert time.monotonic() < deadline, "the policy is not at work after a minute"
        time.sleep(0.2)
    yield
    for one in objects:
        shell.kubectl("delete", one["kind"], one["metadata"]["name"])


def _image(image: str) -> dict[str, Any]:
    container = {"name": "pytorch", "image": image}
    return {"spec": {"pytorchReplicaSpecs": {"Master": {"template": {"spec": {"containers": [container]}}}}}}


def _change(shell: Shell, run: str, patch: dict[str, Any], *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [shell.kubectl_path, "-n", shell.namespace, "patch", "pytorchjob", run, "--type=merge", *flags]
    command += ["-p", json.dumps(patch)]
    return subprocess.run(command, env=shell.environment, capture_output=True, text=True, timeout=60)


@pytest.fixture()
def run(shell: Shell, policy: None, request: pytest.FixtureRequest) -> str:
    """A live job as kctl labels it."""
    name = f"{request.node.originalname.replace('_', '-')[5:40].strip('-')}-11111111"
    shell.kubectl("create", "-f", "-", stdin=json.dumps(job(name)))
    return name


def test_every_kustomization_builds_and_every_file_belongs_to_one_or_is_an_example(shell: Shell) -> None:
    folders = [path.parent for path in sorted(K8S.rglob("kustomization.yaml"))]
    assert len(folders) == 7
    used = {path for path in K8S.rglob("kustomization.yaml")}
    for folder in folders:
        assert all(one["apiVersion"] and one["metadata"]["name"] for one in built(shell, folder)), folder
        content = yaml.safe_load((folder / "kustomization.yaml").read_text())
        used |= {(folder / name).resolve() for name in content.get("resources", ())}
        for generated in content.get("configMapGenerator", ()):
            used |= {folder / entry.partition("=")[2] for entry in generated["files"]}
    examples = {K8S / "argocd" / "application.yaml", K8S / "argocd" / "health-until-the-end.lua"}
    examples |= {K8S / "flux" / "runs.yaml", K8S / "README.md", *(K8S / "ci").iterdir()}
    assert {path for path in K8S.rglob("*") if path.is_file()} == {path for path in used if path.is_file()} | examples


@pytest.mark.skipif(bool(GIVEN), reason="applies to the namespace kctl and for the whole cluster")
def test_base_applies_word_for_word_and_a_second_time_changes_nothing(shell: Shell) -> None:
    try:
        first = shell.kubectl("apply", "-k", str(K8S / "base"), "-n", "kctl")
        assert "namespace/kctl created" in first and first.count("\n") == 17
        again = shell.kubectl("apply", "-k", str(K8S / "base"), "-n", "kctl")
        assert all(line.endswith(" unchanged") for line in again.splitlines()), again
        for overlay in ("egress", "team"):
            objects = built(shell, K8S / "overlays" / overlay)
            for one in objects:
                one["metadata"].pop("namespace", None)
            namespaced = [one for one in objects if one["kind"] != "Namespace"]
            shell.kubectl("-n", "kctl", "apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(namespaced))
    finally:
        shell.kubectl("delete", "-k", str(K8S / "base"), "-n", "kctl", "--ignore-not-found")


def test_every_example_is_accepted_where_its_api_is(shell: Shell, team: list[dict[str, Any]], tmp_path: Path) -> None:
    for folder in ("base/cluster", "overlays/egress", "overlays/kueue", "argocd"):
        objects = built(shell, K8S / folder, shell.namespace if folder != "base/cluster" else None, tmp_path)
        known = [one for one in objects if not one["apiVersion"].startswith(ABSENT)]
        said = apply(shell, known, "--dry-run=server")
        assert said.count("(server dry run)") == len(known) > 0
        rest = [one for one in objects if one not in known]
        assert all(one["metadata"]["name"] and one["spec"] for one in rest)
        assert [one["kind"] for one in rest] == (["LocalQueue"] if folder == "overlays/kueue" else [])


def test_a_team_of_another_name_shares_nothing(shell: Shell) -> None:
    objects = built(shell, K8S / "overlays" / "team")
    assert {one["metadata"].get("namespace", one["metadata"]["name"]) for one in objects} == {"team-a"}
    subjects = [subject for one in objects if one["kind"] == "RoleBinding" for subject in one["subjects"]]
    assert {subject.get("namespace", subject["name"]) for subject in subjects} == {"team-a"}
    assert not any(one["kind"] in ("PriorityClass", "ValidatingAdmissionPolicy") for one in objects)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_kctl_renders_fits(shell: Shell, team: list[dict[str, Any]], path: Path) -> None:
    """Pods of every golden manifest pass the namespace's Pod Security Standard and quota, and get no token."""
    objects = {one["kind"]: one for one in yaml.safe_load_all(path.read_text())}
    claims = {one["metadata"]["name"] for one in team if one["kind"] == "PersistentVolumeClaim"}
    for one in objects.values():
        one["metadata"].pop("namespace", None)
        apply(shell, [one], "--dry-run=server")
    (replica,) = objects["PyTorchJob"]["spec"]["pytorchReplicaSpecs"].values()
    spec = replica["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False and "serviceAccountName" not in spec
    if not path.stem.startswith("case-"):
        mounted = [one["persistentVolumeClaim"] for one in spec["volumes"] if "persistentVolumeClaim" in one]
        assert {one["claimName"] for one in mounted} == claims
    spec.pop("priorityClassName", None)  # a name of the profile's own cluster
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fits"}, "spec": spec | {"restartPolicy": "Never"}}
    made = json.loads(apply(shell, [pod], "--dry-run=server", "-o", "json"))
    assert made["spec"]["serviceAccountName"] == "default"
    assert not any(volume["name"].startswith("kube-api-access") for volume in made["spec"]["volumes"])


def test_pods_get_no_token_and_no_privilege(shell: Shell, team: list[dict[str, Any]]) -> None:
    container: dict[str, Any] = {"name": "main", "image": "registry.example.com/any:1"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": {"containers": [container]}}
    command = [shell.kubectl_path, "-n", shell.namespace, "create", "--dry-run=server", "-o", "json", "-f", "-"]
    done = subprocess.run(command, env=shell.environment, input=json.dumps(pod), capture_output=True, text=True)
    assert done.returncode == 1 and 'violates PodSecurity "restricted:latest"' in done.stderr
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container["securityContext"] = security | {"seccompProfile": {"type": "RuntimeDefault"}}
    done = subprocess.run(command, env=shell.environment, input=json.dumps(pod), capture_output=True, text=True)
    assert done.returncode == 0 and "volumes" not in json.loads(done.stdout)["spec"], done.stderr


def test_a_live_run_keeps_its_template(shell: Shell, run: str) -> None:
    replicas = {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 2, "template": {"spec": {"containers": []}}}}}}
    without_label = _image("other:1") | {"metadata": {"labels": {"kctl.dev/run": None}}}
    for change in (_image("other:1"), replicas, without_label):
        done = _change(shell, run, change)
        assert done.returncode == 1
        assert f"run {run} is live and its pods cannot change; first: kctl cancel {run} -n" in done.stderr
    changed = job(run) | {"kind": "PyTorchJob"}
    changed["spec"]["pytorchReplicaSpecs"]["Master"]["restartPolicy"] = "Never"
    assert shell.kubectl("apply", "-f", "-", stdin=json.dumps(changed), check=False) == ""
    shell.set_conditions(run, "Created", "Running")
    assert "is live" in _change(shell, run, _image("other:1")).stderr


def test_all_else_of_a_live_run_may_change(shell: Shell, run: str) -> None:
    shell.kubectl("annotate", "pytorchjob", run, "note=1")
    shell.kubectl("apply", "-f", "-", stdin=json.dumps(job(run)))
    shell.set_conditions(run, "Created", "Running")
    cancelled = shell.kctl("cancel", run, "-n", shell.namespace)
    assert cancelled.returncode == 0, cancelled.stderr
    shell.set_conditions(run, "Created", "Suspended")
    shell.kubectl("delete", "pytorchjob", run)


def test_a_suspended_run_may_change_as_kueue_does_it(shell: Shell, run: str) -> None:
    def write(suspend: bool, image: str) -> int:
        patch = _image(image)
        patch["spec"]["runPolicy"] = {"suspend": suspend}
        return _change(shell, run, patch).returncode

    assert write(True, "other:1") == 0, "Kueue stops a job and takes its nodes back in one write"
    assert _change(shell, run, _image("other:2")).returncode == 0
    assert write(False, "other:3") == 0, "Kueue starts a job and gives it nodes in one write"
    assert write(False, "other:4") == 1, "and then it is live"


@pytest.mark.parametrize("end", ["Succeeded", "Failed"])
def test_a_finished_run_may_change(shell: Shell, run: str, end: str) -> None:
    shell.set_conditions(run, "Created", end)
    assert _change(shell, run, _image("other:1")).returncode == 0
    shell.kubectl("delete", "pytorchjob", run)


def test_jobs_of_others_are_left_alone(shell: Shell, policy: None) -> None:
    foreign = job("foreign-11111111")
    foreign["metadata"]["labels"] = {}
    shell.kubectl("create", "-f", "-", stdin=json.dumps(foreign))
    assert _change(shell, "foreign-11111111", _image("other:1")).returncode == 0
