"""Full-parameter runs that cannot fit are named before anything is loaded, with numbers and what may fit."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from kctl.config.run_config import load
from kctl.manifest.render import render
from tests.cli.profiles import profile
from trainer.pod.environment import host_memory
from trainer.schema.config import TrainConfig
from trainer.schema.loading import validated
from trainer.schema.memory import FullRun, Room, full_run, too_large
from trainer.schema.parameters import known_shape

GIB = 2**30


def run_of(model: str, row: int = 8192, **fields: Any) -> FullRun:
    shape = known_shape(model)
    assert shape is not None
    value = {"model": {"path": "m"}, "data": {"path": "d", "format": "messages"}, "optim": {"lr": 1e-4}}
    return full_run(shape, validated(TrainConfig, {**value, "method": "full", **fields}, "test"), row)


RUN = run_of("Qwen3-30B-A3B")


def node(gib: float, gpus: int = 8, host: float = 2000) -> Room:
    """One node with GPUs of `gib` GiB each and `host` GiB of memory."""
    return Room(gpus, gib * GIB, 1, host * GIB)


def test_30b_does_not_fit_on_eight_cards_of_80_gb_but_on_larger_ones() -> None:
    reason = too_large(RUN, node(79.1, host=400))
    assert reason is not None and "30.5 billion parameters need 64.0 GiB of state" in reason
    assert "on each of 8 GPUs, of whose 79.1 GiB 75.9 can be used" in reason
    offload = "what may fit: train.ops.offload: true with 682.4 GiB of host memory on each node, which has 400.0, or "
    assert offload in reason
    assert too_large(RUN, node(139.8)) is None
    assert too_large(run_of("Qwen3-4B"), node(139.8, gpus=1)) is None


def test_of_a_model_of_unknown_sizes_the_state_alone_is_counted() -> None:
    run = FullRun(4_022_468_096, "bf16", offload=False)
    assert too_large(run, node(75, gpus=1)) is None
    reason = too_large(run, node(60, gpus=1))
    assert reason is not None and "need 67.4 GiB of state and about 3.7 for rows" in reason
    assert reason.endswith("what may fit: train.ops.offload: true with 89.9 GiB of host memory on each node, which has "
                           "2000.0, or 2 such GPUs, or GPUs with more memory, or method lora")  # fmt: skip


def test_with_offload_it_does_where_the_nodes_have_the_memory() -> None:
    run = replace(RUN, offload=True)
    assert too_large(run, node(79.1, host=683)) is None
    reason = too_large(run, node(79.1, host=400))
    assert reason is not None and "need 682.4 GiB of host memory on each node, which has 400.0" in reason
    assert reason.endswith("more memory for the pod (memory in the cluster profile), 2 such nodes, or method lora")
    assert too_large(run, Room(16, 79.1 * GIB, 2, 400 * GIB)) is None
    still = too_large(run, node(16))
    assert still is not None and "need 7.1 GiB of state" in still and "offload" not in still


@pytest.mark.parametrize("gpus", [1, 2, 8, 64])
@pytest.mark.parametrize("gib", [10, 24, 79.1, 139.8])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("offload", [False, True])
def test_what_is_said_to_fit_is_not_refused(
    offload: bool, precision: Literal["bf16", "fp32"], gib: float, gpus: int
) -> None:
    run = run_of("Qwen3-30B-A3B", precision=precision, ops={"offload": offload})
    reason = too_large(run, node(gib, gpus))
    if reason is None:
        return
    assert reason.endswith("GPUs with more memory, or method lora")
    more, rows = re.search(r"(\d+) such GPUs", reason), re.search(r"max_tokens: (\d+) if", reason)
    assert bool(more) == run.fits(1024, gib * GIB)
    if more:
        assert int(more[1]) > gpus and too_large(run, node(gib, int(more[1]))) is None
    if rows:
        assert too_large(replace(run, row=int(rows[1])), node(gib, gpus)) is None
    offloaded = too_large(replace(run, offload=True), node(gib, gpus))
    assert ("train.ops.offload: true with" in reason) == (not offload and offloaded is None)


def test_a_pod_may_use_what_its_container_is_allowed_and_the_machine_has(tmp_path: Path) -> None:
    groups = tmp_path / "sys" / "fs" / "cgroup"
    (groups / "memory").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:       1048576 kB\nMemFree:  5 kB\n")
    assert host_memory(tmp_path) == GIB
    (groups / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert host_memory(tmp_path) == GIB
    (groups / "memory.max").write_text("max\n")
    assert host_memory(tmp_path) == GIB
    (groups / "memory.max").write_text(f"{GIB // 2}\n")
    assert host_memory(tmp_path) == GIB // 2 and host_memory() > 0


def test_kctl_warns_with_the_profiles_gpus() -> None:
    config = load("full_di3", []).config
    (warning,) = render(config, profile(), None).warnings
    assert warning.startswith("train.method full: 30.5 billion parameters need 64.0 GiB of state")
    gpu = {"resource": "nvidia.com/gpu", "memory_gib": 141}
    assert render(config, profile(gpu=gpu), None).warnings == []
    more = render(
        load("full_di3", ["cluster.nodes=2"]).config, profile(queue={"kind": "volcano", "name": "q"}), None
    ).warnings
    assert more == []
    assert "train.ops.offload: true with 682.4 GiB of host memory on each node, which has 400.0" in warning
    (warning,) = render(load("full_di3", ["train.ops.offload=true"]).config, profile(), None).warnings
    assert warning.startswith("train.ops.offload: 30.5 billion parameters need 682.4 GiB of host memory")
    large = profile(memory="704Gi")
    assert render(load("full_di3", ["train.ops.offload=true"]).config, large, None).warnings == []
    assert render(load("lora_di3", []).config, profile(), None).warnings == []
