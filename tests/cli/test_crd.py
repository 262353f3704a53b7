"""Rendered PyTorchJobs against the operator's own CRD (v1.9.4), strict about unknown fields.

The CRD comes from the Go module proxy into Go's cache: `go` must be there, and the network once.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from kctl.config.resolve import shipped_configs
from kctl.manifest.render import render
from tests.cli.profiles import cases, config, profile

OPERATOR = "github.com/kubeflow/training-operator@v1.9.4"
SHIPPED = sorted(path.stem for path in shipped_configs().glob("*.yaml"))


@pytest.fixture(scope="module")
def crd(tmp_path_factory: pytest.TempPathFactory) -> jsonschema.Draft202012Validator:
    """The PyTorchJob schema of the operator, closed wherever it names its fields."""
    command = ["go", "mod", "download", "-json", OPERATOR]
    done = subprocess.run(command, cwd=tmp_path_factory.mktemp("go"), capture_output=True, check=True, timeout=240)
    path = Path(json.loads(done.stdout)["Dir"]) / "manifests/base/crds/kubeflow.org_pytorchjobs.yaml"
    loaded = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    (version,) = [item for item in loaded["spec"]["versions"] if item["name"] == "v1"]
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    """`schema` with unknown fields refused, as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def problems(crd: jsonschema.Draft202012Validator, job: dict[str, Any]) -> list[str]:
    body = {**job, "metadata": {}}  # the CRD leaves metadata to the API server
    crd_errors = crd.iter_errors(body)
    return [f"{error.json_path}: {error.message}"[:200] for error in crd_errors if error.json_path != "$.metadata"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_fit_the_crd(crd: jsonschema.Draft202012Validator, name: str) -> None:
    gpus = profile(gpu=None) if name == "demo" else profile()
    assert problems(crd, render(config(base=name), gpus, "research").manifests[1]) == []


@pytest.mark.parametrize("name", sorted(cases()))
def test_other_kinds_of_runs_fit_the_crd(crd: jsonschema.Draft202012Validator, name: str) -> None:
    case = cases()[name]
    assert problems(crd, render(case.config, case.profile, case.namespace).manifests[1]) == []


def test_it_would_notice(crd: jsonschema.Draft202012Validator) -> None:
    patched = profile(pod_patch={"containers": [{"name": "pytorch", "livenessprobe": {}}], "nodeName": 3})
    found = problems(crd, render(config(), patched, None).manifests[1])
    assert any("livenessprobe" in problem for problem in found)
    assert any("nodeName" in problem for problem in found)
