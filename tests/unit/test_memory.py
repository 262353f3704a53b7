"""Full-parameter runs that cannot fit are named before anything is loaded, with numbers and what may fit."""

import re

import pytest

from kctl.config.run_config import load
from kctl.manifest.render import render
from tests.cli.profiles import profile
from trainer.schema.memory import TOKEN_BYTES, too_large

GIB = 2**30
QWEN3_30B = 30_532_122_624


def test_30b_does_not_fit_on_eight_cards_of_80_gb_but_on_larger_ones() -> None:
    reason = too_large("bf16", QWEN3_30B, 8, 79.1 * GIB)
    assert reason is not None and "30.5 billion parameters need 64.0 GiB of state" in reason
    assert "on each of 8 GPUs, of whose 79.1 GiB 75.9 can be used" in reason
    assert too_large("bf16", QWEN3_30B, 8, 139.8 * GIB) is None
    assert too_large("bf16", 4_022_468_096, 1, 139.8 * GIB) is None, "measured: 81.5 GiB"


@pytest.mark.parametrize("gpus", [1, 2, 8, 64])
@pytest.mark.parametrize("gib", [10, 24, 79.1, 139.8])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_is_said_to_fit_is_not_refused(precision: str, gib: float, gpus: int) -> None:
    reason = too_large(precision, QWEN3_30B, gpus, gib * GIB)  # type: ignore[arg-type]
    if reason is None:
        return
    assert reason.endswith("GPUs with more memory, or method lora")
    more, rows = re.search(r"(\d+) such GPUs", reason), re.search(r"max_tokens: (\d+) if", reason)
    assert bool(more) == (gib > 8192 * TOKEN_BYTES / GIB / 0.96)
    if more:
        assert int(more[1]) > gpus and too_large(precision, QWEN3_30B, int(more[1]), gib * GIB) is None  # type: ignore[arg-type]
    if rows:
        assert too_large(precision, QWEN3_30B, gpus, gib * GIB, int(rows[1])) is None  # type: ignore[arg-type]


def test_kctl_warns_with_the_profiles_gpus() -> None:
    config = load("full_di3", []).config
    (warning,) = render(config, profile(), None).warnings
    assert warning.startswith("train.method full: 30.5 billion parameters need 64.0 GiB of state")
    gpu = {"resource": "nvidia.com/gpu", "memory_gib": 141}
    assert render(config, profile(gpu=gpu), None).warnings == []
    assert render(load("full_di3", ["train.ops.max_tokens=2048"]).config, profile(), None).warnings == []
    assert render(load("lora_di3", []).config, profile(), None).warnings == []
