"""Runs many short trainings in one process group: starting torchrun and DeepSpeed costs more than the cases.

    torchrun ... cases.py CASES.json      [{"name", "config": path of a run file, "prepared": folder,
                                             "runs": folder, "gradients": path or absent,
                                             "resumes": checkpoint to start from or absent,
                                             "stop": stop file, asks for it after a step, or absent}, ...]

Every case goes through the trainer's own setup, resume, fit and export. Rank 0 leaves metrics.jsonl, checkpoints
and adapters in the run's folder, and in result.json the summary or how it diverged; `gradients` receives the gradient
of the first step by parameter name.
"""

import gc
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainer import metrics
from trainer.batches import build_batches, plan_step
from trainer.distributed import Ranks, end_process, join, leave
from trainer.engine import accumulate
from trainer.errors import Diverged, Preempted
from trainer.pod.ownership import Owner
from trainer.run import Run
from trainer.schema import contract
from trainer.schema.loading import read_run_file
from trainer.state import resume
from trainer.train import export, fit, setup

OWNER = Owner(pod_uid="cases", attempt=1, counter=0, host="here", pid=1, started=1)


def first_gradient(run: Run) -> dict[str, torch.Tensor]:
    """The first step's gradient of every trained parameter, reduced over all ranks."""
    from deepspeed.utils import safe_get_full_grad

    plan = plan_step(0, run.data.train, run.train, run.packing)
    scale = torch.tensor(run.ranks.world / plan.kept)
    run.model.train()
    batches = build_batches(run.data.train, plan.rows, run.ranks.rank, run.packing, run.ranks.device)
    accumulate(run.engine, batches, scale)
    if run.full:
        return {name: safe_get_full_grad(parameter).clone() for name, parameter in run.parameters}
    found = {}
    for flat in run.engine.module.flats:
        whole = safe_get_full_grad(flat.parameter)
        for name, parameter, begin in flat.pieces:
            found[name] = whole[begin : begin + parameter.numel()].view_as(parameter).clone()
    return found


def run_case(case: dict[str, Any], ranks: Ranks) -> None:
    """One training, from setup to export."""
    file = read_run_file(Path(case["config"]))
    folder = contract.RunFolder(Path(case["runs"]) / file.run)
    os.environ |= {
        contract.ENV_PREPARED: case["prepared"],
        contract.ENV_RUN_FOLDER: str(folder.root),
        contract.ENV_PLAN: "0",
        contract.ENV_OWNER: OWNER.token,
        contract.ENV_STOP_FILE: case.get("stop", ""),
    }
    if ranks.first:
        folder.root.mkdir(parents=True, exist_ok=True)
        if "resumes" in case:
            origin = next(Path("/").glob(case["resumes"].lstrip("/")))
            shutil.copytree(origin, folder.checkpoints / origin.name)
        folder.owner.write_text(json.dumps(asdict(OWNER)))
    torch.distributed.barrier()
    run = setup(file, ranks)
    if "gradients" in case:
        gradients = first_gradient(run)
        if ranks.first:
            save_file(gradients, case["gradients"])
        return
    progress = resume(run)
    log = metrics.Metrics(folder, file.run, progress.step, file.train.ops) if ranks.first else None
    try:
        summary = export(run, fit(run, progress, log))
    except (Diverged, Preempted) as error:
        summary = {"code": int(error.code), "sentence": str(error)}
    if log is not None:
        log.close()
        folder.result.write_text(json.dumps(summary))


def main() -> None:
    ranks = join()
    for case in json.loads(Path(sys.argv[1]).read_text()):
        if ranks.first:
            print(f"case {case['name']}", flush=True)
        run_case(case, ranks)
        gc.collect()
    leave()


if __name__ == "__main__":
    main()
    end_process()
