"""One training run on one rank, top to bottom: setup() -> fit() -> export().

Started by torchrun under trainer.launch, which has checked the inputs, prepared the data and owns the run folder.
`python -m trainer.train --dry-run` prints the parameter counts and the batch arithmetic instead.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer import metrics, startup
from trainer.audit import audit, trained_parameters
from trainer.base_model import model_folder
from trainer.batches import build_batches, plan_step
from trainer.checkpoints import Progress
from trainer.dataset.prepared import load_prepared
from trainer.distributed import Ranks, end_process, exit_code_of, join, leave, stop_asked, summed
from trainer.engine import accumulate, deepspeed_config, initialise, set_learning_rate, update
from trainer.errors import Preempted, TimeLimit, first_line
from trainer.evaluation import fixed_subset
from trainer.fast import experts
from trainer.fast.attention import register
from trainer.fast.replays import Replays
from trainer.fast.self_check import self_check
from trainer.full_state import shard_at_load
from trainer.guards import Spikes
from trainer.hang import HangWatch
from trainer.judging import exhausted, judged
from trainer.lora import add_adapters
from trainer.lora_state import Snapshot
from trainer.metrics import Pace, device_state, say
from trainer.model import Load, load_model
from trainer.movement import Movement
from trainer.pod import outcome
from trainer.rewind import StepResult, guarded
from trainer.run import Run, autocast, token_losses
from trainer.schema import contract
from trainer.schema.loading import RunFile, read_run_file
from trainer.schema.messages import as_rank, step_line
from trainer.schema.ops import parse_every
from trainer.schema.schedule import Due, decay_steps, learning_rate, total_steps
from trainer.state import due, publish_adapter, resume, save, settle
from trainer.writer import Writer


def setup(file: RunFile, ranks: Ranks, load: Load = load_model) -> Run:
    """Model, adapters, engine and plan; the first lines of the log. `load`: the benchmark's has random weights."""
    train, device = file.train, ranks.device
    data = load_prepared(Path(os.environ[contract.ENV_PREPARED]))
    base = model_folder(train, contract.mounted(contract.ENV_MODELS))
    startup.check_full(train, base, ranks, data.train)
    kernel = register(train.ops.kernels)
    sharding = shard_at_load(deepspeed_config(train, device.type == "cuda")) if train.method == "full" else None
    model = load(train, base, device)
    del sharding
    unpacked = None
    if train.method == "lora":
        unpacked = self_check(model, device)
        model = add_adapters(model, train)
    counts = audit(model, train)
    kernels = [kernel, experts.says(model), "" if unpacked else startup.compiled(train, model, ranks)]
    plan = startup.fit_into_memory(model, train, ranks, data.train, unpacked is None)
    replays = Replays(model, partial(autocast, train, device))
    engine = initialise(model, partial(token_losses, model, train, replays), train, device)
    kernels.append(startup.replayed(replays, model, plan, data.train, ranks))
    if train.method == "full":
        kernels.append("optimizer in host memory" if train.ops.offload else "")
        # Under ZeRO-3 no rank has whole weights before the engine's hooks gather them.
        unpacked = self_check(model, device, backward=False)
    packing = startup.packing_of(train, ranks, plan, unpacked is None)
    if ranks.first:
        said = [startup.versions(ranks, kernels, unpacked), "; ".join(counts.lines())]
        for line in said + startup.batch_arithmetic(train, len(data.train), packing) + startup.memory(plan):
            say(line)
    return Run(
        file=file,
        ranks=ranks,
        folder=contract.RunFolder(Path(os.environ[contract.ENV_RUN_FOLDER])),
        data=data,
        base=base,
        model=model,
        parameters=trained_parameters(model),
        engine=engine,
        writer=Writer(ranks, Snapshot(engine)),
        due=Due(train.ops.checkpoint.every),
        plan=plan,
        packing=packing,
        subset=fixed_subset(data.validation, train.evaluation.max_items),
        steps=total_steps(len(data.train), train),
        details={"trained": counts.trained, "total": counts.total, "ranks": ranks.world},
    )


def fit(run: Run, progress: Progress, log: metrics.Metrics | None) -> Progress:
    """Train from `progress` to the end or an early stop; a stop from outside is raised after saving."""
    start = time.monotonic() - progress.seconds
    pace, spikes, movement = Pace(), Spikes(), Movement(run)
    progress = judged(run, progress, log)
    while progress.step < run.steps and not exhausted(run, progress):
        # ---- one optimiser step: what it computes depends on its number alone
        pace.begin()
        with run.watch.during("step", progress.step + 1):
            result = train_step(run, progress.step, due(run, progress.step + 1), progress.left_out)
        pace.end(result.tokens)
        progress = replace(progress, step=progress.step + 1, seconds=time.monotonic() - start)
        if log is not None:
            record(run, log, progress, result, pace)
            for line in strange(run, progress.step, result, spikes, movement):
                say(line)
        progress = guarded(run, progress, log, result)
        if result.stop:  # before an evaluation, which may take longer than the grace
            save(run, progress, wait=True)
            if log is not None:
                outcome.progress(progress.step, run.steps, result.loss, progress.best_loss)
            raise_stop(result.stop, progress)
        progress = judged(run, progress, log)
        if log is not None and progress.evaluated == progress.step:
            outcome.progress(progress.step, run.steps, result.loss, progress.best_loss)
        # In a row of bad steps the weights may be what is wrong: the checkpoint to go back to stays the one before.
        if result.save and not progress.bad:
            with run.watch.during("checkpoint", progress.step):
                save(run, progress)
    with run.watch.during("the last checkpoint", progress.step):  # the others are not waited for, so are no measure
        settle(run)
    return progress


def train_step(run: Run, step: int, wanted: bool, left_out: Collection[int] = ()) -> StepResult:
    """Update number `step` (from 0). `wanted`: rank 0 asks for a checkpoint after it."""
    train, ranks = run.train, run.ranks
    plan = plan_step(step, run.data.train, train, run.packing, left_out)
    # Dropout depends on seed, step and rank, so a resumed run draws what the uninterrupted one would have.
    torch.manual_seed(((train.seed * 1_000_003 + step) * 4_099 + ranks.rank) % 2**63)
    set_learning_rate(run.engine, learning_rate(step, train.optim, decay_steps(len(run.data.train), train)))
    # The engine averages over ranks; times world / labels that is the mean over all labels of the step.
    scale = torch.tensor(ranks.world / max(1, plan.kept), device=ranks.device)
    if not run.model.training:  # walks over thousands of modules while the GPU has nothing to do
        run.model.train()
    batches = build_batches(run.data.train, plan.rows, ranks.rank, run.packing, ranks.device)
    loss, grad_norm = torch.zeros((), device=ranks.device), 0.0
    if plan.items:
        loss = accumulate(run.engine, batches, scale)
        run.writer.copied()
        grad_norm = float(update(run.engine))
    asked = stop_asked()
    flags = [asked == outcome.PREEMPTED, asked == outcome.TIME_LIMIT, wanted and ranks.first, run.writer.failed]
    local = torch.cat([loss.double()[None] / ranks.world, torch.tensor(flags, device=ranks.device).double()])
    total, preempted, late, save_now, unsaved = summed(local, ranks.device)
    if unsaved:
        settle(run)
    stop = outcome.PREEMPTED if preempted else outcome.TIME_LIMIT if late else None
    return StepResult(total, grad_norm, plan.tokens, stop, bool(save_now), trained=bool(plan.items))


def record(run: Run, log: metrics.Metrics, progress: Progress, result: StepResult, pace: Pace) -> None:
    """Each step into metrics.jsonl, every log_every steps onto the log."""
    if not result.trained:
        return say(f"step {progress.step}: all its items are left out, nothing is trained")
    rate = learning_rate(progress.step - 1, run.train.optim, decay_steps(len(run.data.train), run.train))
    values: dict[str, float] = {
        "step": progress.step,
        "steps": run.steps,
        "loss": result.loss,
        "lr": rate,
        "grad_norm": result.grad_norm,
    }
    if progress.step % run.train.ops.log_every == 0 or progress.step in (1, run.steps):
        values |= pace.take(run.steps - progress.step) | device_state(run.ranks.device)
        values["seconds"] = progress.seconds
        say(step_line(values))
        outcome.progress(progress.step, run.steps, result.loss, progress.best_loss)
    log.write(values)


def strange(run: Run, step: int, result: StepResult, spikes: Spikes, movement: Movement) -> list[str]:
    """What stands out after a good step."""
    if not (result.good and result.trained):
        return []
    rate = learning_rate(step - 1, run.train.optim, decay_steps(len(run.data.train), run.train))
    return spikes.lines(step, result.loss, result.grad_norm) + (movement.lines(run, step - 1) if rate > 0 else [])


def raise_stop(asked: str, progress: Progress) -> None:
    """The run is saved: end it with the contract's code."""
    if asked == outcome.TIME_LIMIT:
        raise TimeLimit(f"max_hours is over at step {progress.step}; saved: raise cluster.max_hours and submit again")
    raise Preempted(f"stopped at step {progress.step} as asked; saved: submit again to continue from there")


def export(run: Run, progress: Progress) -> dict[str, Any]:
    """The last adapter beside the best one (the same where nothing is held out); the run's summary."""
    publish_adapter(run, progress, run.folder.adapter_last)
    if not run.subset:
        publish_adapter(run, progress, run.folder.adapter)
    return {
        "step": progress.step,
        "best_step": progress.best_step if run.subset else progress.step,
        "before": progress.before,
        "after": progress.best,
        "seconds": round(progress.seconds, 1),
        **run.details,
    }


def train_on_this_rank(file: RunFile) -> None:
    """setup, fit, export; every rank runs this."""
    startup.quiet_libraries(this_rank())
    watch = HangWatch(parse_every(file.train.ops.hang_after)[0])
    watch.start(this_rank())
    ranks = join()
    run = replace(setup(file, ranks), watch=watch)
    progress = resume(run)
    log = metrics.Metrics(run.folder, file.run, progress.step, file.train.ops) if ranks.first else None
    progress = fit(run, progress, log)
    summary = export(run, progress)
    dist.barrier()
    if log is not None:
        log.close()
        outcome.success(summary)
        say(f"done step={progress.step} best_step={summary['best_step']} adapter={run.folder.adapter}")
    leave()


def this_rank() -> int:
    """As torchrun says it, before the group is joined; 0 by hand."""
    return int(os.environ.get("RANK", "0"))


def main() -> int:
    """The boundary of a rank: whatever ends it is written down for the launcher, with the contract's code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.train")
    parser.add_argument("--dry-run", action="store_true", help="print counts and batch arithmetic, train nothing")
    arguments = parser.parse_args()
    try:
        file = read_run_file(Path(os.environ.get(contract.ENV_CONFIG, contract.CONFIG_PATH)))
        if arguments.dry_run:
            startup.dry_run(file)
        else:
            train_on_this_rank(file)
    except Exception as error:  # noqa: BLE001 (the one boundary of this program)
        code = exit_code_of(error)
        if code in (contract.ExitCode.UNKNOWN, contract.ExitCode.DEVICE, contract.ExitCode.OUT_OF_MEMORY):
            print(as_rank(traceback.format_exc(), this_rank()), end="", file=sys.stderr, flush=True)
        outcome.report(int(code), first_line(error))
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
