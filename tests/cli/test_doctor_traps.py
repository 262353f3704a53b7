"""The 22 traps of the training operator: kctl doctor tells each that can be seen beforehand."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kctl.cli import run as kctl
from tests.cli.api_server import ApiServer
from tests.cli.ready_cluster import CONFIG, Profile, ready, told, written

_PATCH = {"name": "pytorch"}
IN_THE_CONFIG = {
    2: ({"pod_patch": {"restartPolicy": "Never"}}, "restartPolicy is overwritten"),
    3: ({"pod_patch": {"containers": [{**_PATCH, "$patch": "delete"}]}}, "needs one container 'pytorch'"),
    5: ({"pod_patch": {"containers": [{**_PATCH, "resources": {"limits": {"nvidia.com/gpu": "4"}}}]}}, "nprocPerNode"),
    7: ({"pod_patch": {"containers": [{**_PATCH, "readinessProbe": {"tcpSocket": {"port": 1}}}]}}, "readinessProbe"),
    16: ({"shm": "900Gi"}, "must be below memory"),
    19: ({"pod_patch": {"containers": [{**_PATCH, "env": [{"name": "RANK", "value": "0"}]}]}}, "overridden"),
    20: ({"pod_patch": {"terminationGracePeriodSeconds": 10}}, "terminationGracePeriodSeconds must be >= 60"),
}
"""Trap of the operator (numbered as in the design's list of 22) -> how a profile gets into it, and what is said."""
BEFORE_IT_LOADS = {
    1: ({"name": "a" * 60}, {}, "name"),
    17: ({}, {"env": {"HUB_TOKEN": "hf_abcdefghijklmnopqrstuvwx"}}, "looks like a secret"),
}
"""Trap -> changes of the config and of the profile that no verb loads."""
CANNOT_BE_WRITTEN = {4, 6, 8, 9}
"""Replicas, standalone, suspend and TTL, cleanPodPolicy: kctl renders them itself, and test_preflight has them."""
IN_THE_CLUSTER = {10, 11, 12, 13, 14, 15, 18, 21}
"""Pod Security, queue, claims, Secrets, quotas, devices, digest, the operator's version: test_doctor."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ready(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def profile(server: ApiServer, tmp_path: Path) -> Profile:
    return written(server, tmp_path)


def test_every_trap_that_can_be_seen_beforehand_is_seen(
    server: ApiServer, profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, words in IN_THE_CONFIG.values():
        profile(**changes)
        code, found = told(capsys, "tiny")
        assert code == 2 and words in found[0]["found"], words
    for config, changes, words in BEFORE_IT_LOADS.values():
        profile(**changes)
        (tmp_path / "configs" / "tiny.yaml").write_text(json.dumps({**CONFIG, **config}))
        assert kctl(["doctor", "tiny"]) == 2
        assert words in capsys.readouterr().err
    profile()
    code, found = told(capsys, "full_di3", "--set", "cluster.gpus_per_node=1", "--set", "train.ops.offload=false")
    assert any("memory" in one["found"] for one in found if one["check"] == "config"), "trap 22"
    assert {*IN_THE_CONFIG, *BEFORE_IT_LOADS, *CANNOT_BE_WRITTEN, *IN_THE_CLUSTER, 22} == set(range(1, 23))
