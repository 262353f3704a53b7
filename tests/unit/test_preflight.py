"""Each offline trap on a rendered job that was made to fall into it, and pod_patch, through which most would come."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.errors import KctlError, UsageError
from kctl.manifest import preflight
from kctl.manifest.pod_patch import patched
from kctl.manifest.render import render
from tests.cli.profiles import config, profile
from trainer.errors import ConfigError

Job = dict[str, Any]


def job(nodes: int = 1) -> Job:
    return render(config(f"cluster.nodes={nodes}"), profile(), None).manifests[1]


def master(found: Job) -> dict[str, Any]:
    replica: dict[str, Any] = found["spec"]["pytorchReplicaSpecs"]["Master"]
    return replica


def pod(found: Job) -> dict[str, Any]:
    spec: dict[str, Any] = master(found)["template"]["spec"]
    return spec


def main(found: Job) -> dict[str, Any]:
    container: dict[str, Any] = pod(found)["containers"][0]
    return container


def env(name: str, value: str) -> Callable[[Job], Any]:
    return lambda found: main(found)["env"].append({"name": name, "value": value})


TRAPS: list[tuple[preflight.Trap, Callable[[Job], Any]]] = [
    (preflight.trap_name, lambda found: found["metadata"].update(name="a" * 53)),
    (preflight.trap_name, lambda found: found["metadata"].update(name="1a")),
    (preflight.trap_enums, lambda found: master(found).update(restartPolicy="Sometimes")),
    (preflight.trap_enums, lambda found: found["spec"]["runPolicy"].update(cleanPodPolicy="running")),
    (preflight.trap_enums, lambda found: pod(found).update(restartPolicy="Always")),
    (preflight.trap_container, lambda found: main(found).update(name="trainer")),
    (preflight.trap_container, lambda found: main(found).update(command=["bash"])),
    (preflight.trap_replicas, lambda found: master(found).update(replicas=2)),
    (preflight.trap_replicas, lambda found: found["spec"]["pytorchReplicaSpecs"].update(Worker=master(found))),
    (preflight.trap_processes, lambda found: found["spec"].update(nprocPerNode=8)),
    (preflight.trap_processes, lambda found: found["spec"].update(nprocPerNode="auto")),
    (preflight.trap_processes, lambda found: main(found)["resources"]["limits"].update({"nvidia.com/gpu": "4"})),
    (preflight.trap_elastic, lambda found: found["spec"].update(elasticPolicy={"standalone": True})),
    (preflight.trap_probes, lambda found: main(found).update(readinessProbe={})),
    (preflight.trap_lifetime, lambda found: found["spec"]["runPolicy"].update(suspend=False)),
    (preflight.trap_lifetime, lambda found: found["spec"]["runPolicy"].update(ttlSecondsAfterFinished=60)),
    (preflight.trap_clean, lambda found: found["spec"]["runPolicy"].update(cleanPodPolicy="None")),
    (preflight.trap_restricted, lambda found: pod(found).update(hostNetwork=True)),
    (preflight.trap_restricted, lambda found: pod(found)["securityContext"].update(runAsUser=0)),
    (preflight.trap_restricted, lambda found: pod(found)["securityContext"].pop("seccompProfile")),
    (
        preflight.trap_restricted,
        lambda found: pod(found)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
    ),
    (preflight.trap_restricted, lambda found: main(found)["securityContext"].update(privileged=True)),
    (
        preflight.trap_restricted,
        lambda found: main(found)["securityContext"]["capabilities"].update(add=["IPC_LOCK"]),
    ),
    (preflight.trap_shm, lambda found: main(found)["volumeMounts"].pop(-2)),
    (preflight.trap_shm, lambda found: main(found)["resources"]["limits"].update(memory="1Gi")),
    (preflight.trap_shm, lambda found: main(found)["resources"]["limits"].update(memory="lots")),
    (preflight.trap_secrets, env("HF_TOKEN", "hf_" + "aB3" * 11)),
    (preflight.trap_digest, lambda found: main(found).update(image="a/b:latest")),
    (preflight.trap_environment, env("WORLD_SIZE", "8")),
    (preflight.trap_environment, env("HOME", "/twice")),
    (preflight.trap_environment, env("PET_NNODES", "7")),
    (preflight.trap_grace, lambda found: pod(found).update(terminationGracePeriodSeconds=30)),
    (preflight.trap_grace, lambda found: pod(found).update(terminationGracePeriodSeconds=900)),
]


@pytest.mark.parametrize(("trap", "spoil"), TRAPS, ids=[f"{trap.__name__}-{i}" for i, (trap, _) in enumerate(TRAPS)])
def test_each_trap_is_seen(trap: preflight.Trap, spoil: Callable[[Job], Any]) -> None:
    found = job()
    assert trap(found) is None
    spoil(found)
    assert trap(found)
    if trap in preflight.WARNED:
        assert preflight.check(found)
    else:
        with pytest.raises(UsageError):
            preflight.check(found)


@pytest.mark.parametrize("nodes", [1, 2])
def test_what_kctl_renders_falls_into_none(nodes: int) -> None:
    assert preflight.check(job(nodes)) == []


def test_every_trap_has_a_case() -> None:
    defined = {value for name, value in vars(preflight).items() if name.startswith("trap_")}
    assert {trap for trap, _ in TRAPS} == {*preflight.REFUSED, *preflight.WARNED} == defined


def test_a_patch_merges_by_name_and_leaves_the_original_alone() -> None:
    spec = {
        "containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}], "image": "i"}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "tolerations": [{"key": "t"}],
        "hostname": "h",
    }
    patch = {
        "containers": [
            {"name": "a", "env": [{"name": "X", "valueFrom": {"f": {}}}, {"name": "Y", "$patch": "delete"}]},
            {"name": "b"},
        ],
        "volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}],
        "tolerations": [{"key": "u"}],
        "hostname": None,
    }
    assert patched(spec, patch, "p") == {
        "containers": [{"name": "a", "env": [{"name": "X", "valueFrom": {"f": {}}}], "image": "i"}, {"name": "b"}],
        "volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}],
        "tolerations": [{"key": "u"}],
    }
    assert spec["hostname"] == "h" and len(spec["containers"][0]["env"]) == 2  # type: ignore[index,arg-type]


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        ({"containers": [{"image": "x"}]}, "pod_patch.containers[0]: needs 'name'"),
        ({"containers": None}, "needs one container 'pytorch'"),
        ({"containers": "x"}, "pod_patch.containers: must be a list, got str"),
        (
            {"containers": [{"name": "pytorch", "env": [{"name": "A", "value": 1}]}]},
            "must be a text in quotes, got int",
        ),
        ({"containers": [{"name": "pytorch", "readinessProbe": {"exec": {}}}]}, "readinessProbe"),
        ({"containers": [{"name": "pytorch", "env": [{"name": "RANK", "value": "1"}]}]}, "overridden by the operator"),
        (
            {"containers": [{"name": "x", "env": [{"name": "HF_TOKEN", "value": "hf_" + "aB3" * 11}]}]},
            "looks like a secret",
        ),
        ({"terminationGracePeriodSeconds": 600}, "set grace_seconds in the profile"),
        ({"$patch": "replace"}, "directives are not supported"),
    ],
)
def test_patches_that_are_refused(patch: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(config(), profile(pod_patch=patch), None)
    assert problem in str(caught.value)


def test_what_some_clusters_accept_is_a_warning() -> None:
    capabilities = {"securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}}
    rendered = render(config(), profile(pod_patch={"containers": [{"name": "pytorch", **capabilities}]}), None)
    assert "keeps capabilities IPC_LOCK" in rendered.warnings[0]
    assert "not pinned by digest" in render(config(), profile(image="a/b:1"), None).warnings[0]


WORDS = """name containers env volumes volumeMounts resources limits memory securityContext capabilities add mountPath
value command emptyDir sizeLimit image seccompProfile"""
KEYS = st.sampled_from(WORDS.split())
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES |= st.sampled_from(["pytorch", "shm", "HOME", "x", "/dev/shm", "RANK"])
PATCHES = st.dictionaries(
    KEYS,
    st.recursive(
        VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
    ),
    max_size=3,
)
DEFAULT, RUN_CONFIG = profile(), config()


@settings(max_examples=150, deadline=None)
@given(PATCHES)
def test_any_patch_renders_or_is_refused(patch: dict[str, Any]) -> None:
    try:
        render(RUN_CONFIG, DEFAULT.model_copy(update={"pod_patch": patch}), None)
    except (KctlError, ConfigError) as error:
        assert "\n" not in str(error)
