"""10,000 configs and profiles as nobody would write them: refused in one sentence, or rendered the same every time with
nothing in the manifests but what belongs there.

FAULTS_SEED repeats a seed. That the API server takes what is accepted: tests/cluster/test_cluster_fuzzed.py.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings

from kctl.config.environment import entries
from kctl.config.run_config import LoadedConfig, load
from kctl.errors import KctlError
from kctl.manifest.render import render, to_yaml
from tests.cli.profiles import cases
from tests.fuzzed_configs import Files, files
from trainer.errors import ConfigError

PARTS, COUNT = 4, 2500
SEED = int(os.environ.get("FAULTS_SEED", random.randrange(10**6)))
PROCESSES = 3
"""So many of each kind go through kctl as a process too."""
ROOT = Path(__file__).parents[2]
SPEC = "PyTorchJob.spec.pytorchReplicaSpecs.Master.template.spec"
_FREE = ("nodeSelector", "limits")
"""Maps whose keys a person chooses."""


def structure(value: Any, place: str = "") -> Iterator[str]:
    """Every place in a manifest, whatever stands there; a Worker is as a Master."""
    if isinstance(value, dict) and not place.endswith(_FREE):
        for key, inner in value.items():
            here = f"{place}.{key}".replace(".Worker", ".Master")
            yield here
            yield from structure(inner, here)
    elif isinstance(value, list):
        for inner in value:
            yield from structure(inner, f"{place}[]")


def known_places() -> set[str]:
    """Of all that the templates have a branch for."""
    found: set[str] = set()
    for case in cases().values():
        for manifest in render(case.config, case.profile, case.namespace).manifests:
            found |= {f"{manifest['kind']}{place}" for place in structure(manifest)}
    found |= {f"{SPEC}.tolerations[].{key}" for key in ("key", "operator", "value", "effect")}
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_every_config_is_refused_in_a_sentence_or_rendered_to_the_letter(tmp_path: Path, part: int) -> None:
    print(f"\n{COUNT} configs from seed {SEED}.{part}: FAULTS_SEED={SEED} repeats them", end=" ", flush=True)
    places, started = known_places(), time.process_time()
    accepted: list[tuple[Files, str]] = []
    refused: list[Files] = []

    @seed(PARTS * SEED + part)
    @settings(
        max_examples=COUNT,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(files())
    def check(pair: Files) -> None:
        path = pair.write(tmp_path)
        try:
            loaded = load(str(path), [])
            manifests = render(loaded.config, loaded.profile, None).manifests
        except (KctlError, ConfigError) as error:
            assert str(error) and "Traceback" not in str(error)
            refused.append(pair)
            return
        again = load(str(path), [])
        rendered = render(again.config, again.profile, None).manifests
        assert json.dumps(manifests) == json.dumps(rendered), "the same every time, in the same order"
        text = to_yaml(manifests)
        nothing_but(loaded, text, places)
        accepted.append((pair, text))

    check()
    seconds = time.process_time() - started
    print(f"({len(accepted)} accepted, {len(refused)} refused, {seconds:.0f} s of CPU)")
    assert len(accepted) + len(refused) >= COUNT and len(accepted) >= COUNT / 3 and len(refused) >= COUNT / 10
    for pair, text in accepted[:: len(accepted) // PROCESSES][:PROCESSES]:
        code, out, _ = as_a_process(pair, tmp_path)
        assert code == 0 and out == text.encode()
    for pair in refused[:: len(refused) // PROCESSES][:PROCESSES]:
        code, out, err = as_a_process(pair, tmp_path)
        assert code in (1, 2, 4) and out == b"" and err.startswith(b"error: ") and b"Traceback" not in err
        assert err.count(b"\n") == 1 and b"internal error" not in err


def nothing_but(loaded: LoadedConfig, text: str, places: set[str]) -> None:
    """Two objects of the shape that templates have, in which every text of the files is one value and nothing else."""
    config_map, job = yaml.load_all(text, Loader=yaml.CSafeLoader)
    assert [config_map["kind"], job["kind"]] == ["ConfigMap", "PyTorchJob"]
    there = {f"{one['kind']}{place}" for one in (config_map, job) for place in structure(one)}
    there -= {f"{SPEC}{place}" for place in structure(loaded.profile.pod_patch)}  # whatever a person puts there
    assert there <= places, there - places
    assert json.loads(config_map["data"]["config.json"]) == {
        "run": loaded.config.run,
        "train": loaded.config.train.model_dump(mode="json"),
    }
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    pod, profile = replica["template"]["spec"], loaded.profile
    (container,) = pod["containers"]
    patch = [one for changed in profile.pod_patch.get("containers") or () for one in changed["env"]]
    names = [one["name"] for one in container["env"]]
    assert len(set(names)) == len(names) and container["image"] == profile.image
    own = {one["name"]: one for one in [*entries(profile.env | loaded.config.cluster.env), *patch]}
    assert {name: one for name, one in own.items() if one in container["env"]} == own
    assert pod.get("nodeSelector", {}) == profile.node_selector
    if "tolerations" not in profile.pod_patch:
        wanted = [one.model_dump(exclude_none=True) for one in profile.tolerations]
        assert pod.get("tolerations", []) == wanted
    claims = {one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one}
    volumes = [profile.volumes.models, profile.volumes.data, profile.volumes.runs]
    assert claims == {one.claim for one in volumes}
    mounted = [one.get("subPath") for one in container["volumeMounts"] if one["mountPath"].count("/") == 1]
    assert {one for one in mounted if one} == {one.sub_path for one in volumes if one.sub_path}


def as_a_process(pair: Files, folder: Path) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of kctl render, with another order of sets."""
    pair.write(folder)
    command = [sys.executable, "-m", "kctl", "render", "fuzzed.yaml"]
    environment = {"PATH": "/bin", "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60)
    warnings = b"".join(line for line in done.stderr.splitlines(True) if not line.startswith(b"warning:"))
    return done.returncode, done.stdout, warnings
