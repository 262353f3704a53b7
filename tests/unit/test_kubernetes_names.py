"""What a cluster would refuse of a pod only once the run is there is refused in the profile; a cluster's own fuzz:
tests/cluster/test_cluster_fuzzed.py."""

from typing import Any

import pytest

from kctl.config.profile import ClusterProfile
from kctl.manifest.render import render
from tests.cli.profiles import config, profile
from trainer.errors import ConfigError
from trainer.schema.loading import validated

LONGEST = "a" * 63
REFUSED = [
    ({"node_selector": {"a b": "x"}}, "node_selector.a b.[key]: must be the key of a label"),
    ({"node_selector": {"/x": "x"}}, "must be the key of a label"),
    ({"node_selector": {"a/b/c": "x"}}, "must be the key of a label"),
    ({"node_selector": {"a": "x" * 64}}, "node_selector.a: must be a label's value"),
    ({"node_selector": {"a": "-x"}}, "must be a label's value"),
    ({"tolerations": [{"key": "{{ x }}"}]}, "tolerations.0.key: must be the key of a label"),
    ({"tolerations": [{"key": "a", "value": "x\n"}]}, "tolerations.0.value: must be a label's value"),
    ({"rdma": {"ib": 1}}, "must be the name of an extended resource"),
    ({"rdma": {"-/ib": 1}}, "must be the name of an extended resource"),
    ({"gpu": {"resource": "kubernetes.io/gpu"}}, "must be the name of an extended resource"),
    ({"run_as": {"uid": 2**31}}, "run_as.uid: must be < 2147483648"),
    ({"pull_secrets": ["a", "a"]}, "pull_secrets: each once, got a, a"),
    ({"env": {"T": {"secret": "s", "key": "a b"}}}, "env.T.key: must be a key of its data"),
    ({"env": {"T": {"secret": "s", "key": "..a"}}}, "env.T.key: must be a key of its data"),
]
TAKEN = [
    {"node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100", "a_b": "", LONGEST: LONGEST}},
    {"tolerations": [{"key": "example.com/only_us", "value": "yes.1"}, {"operator": "Exists"}]},
    {"rdma": {"rdma/hca_shared_devices_a": 1}, "run_as": {"uid": 2**31 - 1}},
    {"env": {"T": {"secret": "s", "key": ".dockerconfigjson"}}},
]


@pytest.mark.parametrize(("fields", "said"), REFUSED)
def test_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(ClusterProfile, {**profile().model_dump(), **fields}, "p.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize("fields", TAKEN)
def test_taken(fields: dict[str, Any]) -> None:
    profile(**fields)


@pytest.mark.parametrize(("hours", "told"), [("48", "48"), ("0.5", "0.5"), ("1e-9", "0.000001"), ("1e-5", "0.00001")])
def test_hours_are_told_as_the_launcher_reads_them(hours: str, told: str) -> None:
    job = render(config(f"cluster.max_hours={hours}"), profile(), None).manifests[1]
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    env = {one["name"]: one.get("value") for one in replica["template"]["spec"]["containers"][0]["env"]}
    assert env["TRAINER_MAX_HOURS"] == told
