"""Gradients of a full-parameter run: no rank holds the whole model's between two rows, and their sum is fp32."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.one_rank import begin, config, joined, write_inputs
from trainer.batches import Batch, build_batches, plan_step
from trainer.engine import accumulate
from trainer.run import Run

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root: Path = tmp_path_factory.mktemp("full")
    write_inputs(root)
    ops: dict[str, Any] = {"max_tokens": 128, "generate": {"items": 0}}
    with joined() as ranks:
        yield begin(root, ranks, config(method="full", lora=None, precision="bf16", global_batch_size=16, ops=ops))


def watched(run: Run, held: list[int]) -> Iterator[Batch]:
    """A step's rows; how many values parameters have gradients of, before each and at the end."""
    plan = plan_step(0, run.data.train, run.train, run.packing)
    for batch in build_batches(run.data.train, plan.rows, 0, run.packing, run.ranks.device):
        held.append(sum(parameter.grad.numel() for _, parameter in run.parameters if parameter.grad is not None))
        yield batch


def test_a_row_leaves_only_the_ranks_own_share_in_fp32(run: Run) -> None:
    run.model.train()
    held: list[int] = []
    accumulate(run.engine, watched(run, held), torch.tensor(1.0))
    assert len(held) > 2 and not any(held)
    sums = [one for own in run.engine.optimizer.averaged_gradients.values() for one in own]
    assert all(one.dtype == torch.float32 for one in sums) and sum(float(one.abs().sum()) for one in sums) > 0
