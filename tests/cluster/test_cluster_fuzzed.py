"""1,000 configs that kctl accepts, as bad as they come: API server, CRD, the operator's webhook and the checks of pods
take what is rendered. What kctl refuses: tests/faults/test_fuzzed_configs.py."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from kubernetes import client, config

from kctl.config.run_config import load
from kctl.errors import KctlError
from kctl.manifest import Manifest
from kctl.manifest.render import render
from tests.cluster.conftest import Measured
from tests.cluster.shell import Shell
from tests.fuzzed_configs import Files, files
from trainer.errors import ConfigError

COUNT = 1000
THREADS = 4
SEED = random.randrange(10**6)
CHECKED = {"dry_run": "All", "field_validation": "Strict"}


@pytest.mark.timeout(600)  # runs in pods train beside it
def test_the_api_server_takes_every_config_that_kctl_accepts(shell: Shell, tmp_path: Path, measured: Measured) -> None:
    started = time.monotonic()
    accepted = runs(shell.namespace, tmp_path)
    made = time.monotonic()
    assert len(accepted) >= COUNT
    api = config.new_client_from_config(shell.kubeconfig)
    with ThreadPoolExecutor(THREADS) as pool:
        said = list(pool.map(lambda run: refused(api, shell.namespace, run), accepted[:COUNT]))
    assert not list(filter(None, said)), f"seed {SEED}: {'; '.join(filter(None, said))[:3000]}"
    measured(
        f"{COUNT} fuzzed configs of seed {SEED}: rendered in {made - started:.0f} s; ConfigMaps, PyTorchJobs and pods "
        f"taken by the API server in {time.monotonic() - made:.0f} s"
    )


def runs(namespace: str, folder: Path) -> list[list[Manifest]]:
    """What is rendered of those pairs of files that kctl accepts."""
    found: list[list[Manifest]] = []

    @seed(SEED)
    @settings(
        max_examples=COUNT + COUNT // 4,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(files(spoilt=False))
    def collect(pair: Files) -> None:
        try:
            loaded = load(str(pair.write(folder)), [])
            found.append(render(loaded.config, loaded.profile, namespace).manifests)
        except (KctlError, ConfigError):
            return

    collect()
    return found


def refused(api: Any, namespace: str, manifests: list[Manifest]) -> str:
    """Why the server would not take them; empty where it would."""
    config_map, job = manifests
    core = client.CoreV1Api(api)
    try:
        core.create_namespaced_config_map(namespace, config_map, **CHECKED)
        place = ("kubeflow.org", "v1", namespace, "pytorchjobs")
        client.CustomObjectsApi(api).create_namespaced_custom_object(*place, job, **CHECKED)
        core.create_namespaced_pod(namespace, pod_of(job), **CHECKED)
    except client.ApiException as error:
        return f"{error.status} {json.loads(error.body)['message']}"
    return ""


def pod_of(job: Manifest) -> Manifest:
    """One of its pods as the operator makes it: the CRD knows none of the rules for pods."""
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    pod: Manifest = json.loads(json.dumps(replica["template"]))
    pod["metadata"]["name"] = f"{job['metadata']['name']}-master-0"
    pod["spec"]["restartPolicy"] = "Never"
    pod["spec"].pop("priorityClassName", None)  # whether the class is there is the cluster's own matter
    return {"apiVersion": "v1", "kind": "Pod", **pod}
