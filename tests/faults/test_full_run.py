"""A full-parameter run of two ranks with a damaged checkpoint and a full volume, which one rank goes on with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.faults import full_run
from tests.training.one_rank import write_inputs
from trainer.adapters import verify_adapter
from trainer.schema.contract import RunFolder
from trainer.schema.identity import run_name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("full")
    write_inputs(root)
    return root


def said(root: Path, ranks: int, *words: str) -> list[str]:
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environ = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    argv += [full_run.__file__, str(root), *words]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout.splitlines()


def test_a_damaged_checkpoint_a_full_volume_and_other_ranks(root: Path) -> None:
    lines = said(root, 2)
    folder = RunFolder(root / "runs" / run_name("tiny", full_run.FULL))
    (skipped,) = [line for line in lines if line.startswith("damaged checkpoint skipped: ")]
    assert f"{folder.checkpoint(6)}/" in skipped and "is not what was written" in skipped
    assert "resumed from step-000004" in lines and "as before: True True" in lines

    (unsaved,) = [line for line in lines if line.startswith("no checkpoint: ")]
    assert unsaved.startswith(f"no checkpoint: {folder.checkpoints}/") and "training goes on" in unsaved
    assert sum(line == "checkpoint step=6" for line in lines) == 2
    stopped = sorted(line for line in lines if line.startswith("rank "))
    assert [line.split(":")[0] for line in stopped] == [f"rank {rank} stops with code 7" for rank in (0, 0, 1, 1)], (
        lines
    )
    assert all("make room there and submit again" in line or "check the volume" in line for line in stopped)
    verify_adapter(folder.adapter)
    assert not list(folder.root.rglob(".*.tmp"))
    trained, base = (AutoModelForCausalLM.from_pretrained(path) for path in (folder.adapter, root / "dense"))
    assert trained.dtype == base.dtype and not torch.equal(trained.lm_head.weight, base.lm_head.weight)

    for other in (said(root, 1), said(root, 2, "offload")):
        assert "resumed from step-000006" in other
        assert {line for line in other if line.startswith("weights ")} == {
            line for line in lines if line.startswith("weights ")
        }
