"""One training run on one rank, top to bottom: setup() -> fit() -> export().

Started by torchrun under trainer.launch, which has checked the inputs, prepared the data and owns the run folder.
`python -m trainer.train --dry-run` prints the parameter counts and the batch arithmetic instead.
"""

import argparse
import math
import os
import sys
import time
import traceback
from dataclasses import dataclass, replace
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
from trainer.distributed import Ranks, exit_code_of, join, leave, stop_asked, summed
from trainer.engine import accumulate, deepspeed_config, initialise, set_learning_rate, update
from trainer.errors import Diverged, Preempted, TimeLimit, first_line
from trainer.evaluation import fixed_subset, held_out_loss, sample
from trainer.fast import experts
from trainer.fast.attention import register
from trainer.fast.replays import Replays
from trainer.fast.self_check import self_check
from trainer.full_state import shard_at_load
from trainer.lora import add_adapters
from trainer.lora_state import Snapshot
from trainer.metrics import Pace, device_state, say
from trainer.model import Load, load_model
from trainer.pod import outcome
from trainer.run import Run, autocast, token_losses
from trainer.schedule import Due, decay_steps, is_evaluation, learning_rate, total_steps
from trainer.schema import contract
from trainer.schema.loading import RunFile, read_run_file
from trainer.schema.messages import as_rank, step_line
from trainer.state import due, publish_adapter, resume, save, settle
from trainer.writer import Writer


def setup(file: RunFile, ranks: Ranks, load: Load = load_model) -> Run:
    """Model, adapters, engine and plan; the first lines of the log. `load`: the benchmark's has random weights."""
    train, device = file.train, ranks.device
    data = load_prepared(Path(os.environ[contract.ENV_PREPARED]))
    base = model_folder(train, contract.mounted(contract.ENV_MODELS))
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
    pace, start = Pace(), time.monotonic() - progress.seconds
    progress = judged(run, progress, log)
    while progress.step < run.steps and not exhausted(run, progress):
        # ---- one optimiser step: what it computes depends on its number alone
        pace.begin()
        result = train_step(run, progress.step, due(run, progress.step + 1))
        pace.end(result.tokens)
        progress = replace(progress, step=progress.step + 1, seconds=time.monotonic() - start)
        check_finite(result, progress.step)
        if log is not None:
            record(run, log, progress, result, pace)
        if result.stop:  # before an evaluation, which may take longer than the grace
            save(run, progress, wait=True)
            if log is not None:
                outcome.progress(progress.step, run.steps, result.loss, progress.best_loss)
            raise_stop(result.stop, progress)
        progress = judged(run, progress, log)
        if log is not None and progress.evaluated == progress.step:
            outcome.progress(progress.step, run.steps, result.loss, progress.best_loss)
        if result.save:
            save(run, progress)
    settle(run)
    return progress


@dataclass(frozen=True)
class StepResult:
    """What the ranks agree on after one step: loss per label, gradient norm before clipping, real tokens."""

    loss: float
    grad_norm: float
    tokens: int
    stop: str | None
    save: bool


def train_step(run: Run, step: int, wanted: bool) -> StepResult:
    """Update number `step` (from 0). `wanted`: rank 0 asks for a checkpoint after it."""
    train, ranks = run.train, run.ranks
    plan = plan_step(step, run.data.train, train, run.packing)
    # Dropout depends on seed, step and rank, so a resumed run draws what the uninterrupted one would have.
    torch.manual_seed(((train.seed * 1_000_003 + step) * 4_099 + ranks.rank) % 2**63)
    set_learning_rate(run.engine, learning_rate(step, train.optim, decay_steps(len(run.data.train), train)))
    # The engine averages over ranks; times world / labels that is the mean over all labels of the step.
    scale = torch.tensor(ranks.world / max(1, plan.kept), device=ranks.device)
    if not run.model.training:  # walks over thousands of modules while the GPU has nothing to do
        run.model.train()
    batches = build_batches(run.data.train, plan.rows, ranks.rank, run.packing, ranks.device)
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
    return StepResult(total, grad_norm, plan.tokens, stop, bool(save_now))


def check_finite(result: StepResult, step: int) -> None:
    """The run ends where the loss is no number; the last checkpoint is still good."""
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        raise Diverged(
            f"step {step}: loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}: the run diverged; "
            "lower train.optim.lr or train.optim.max_grad_norm and submit again"
        )


def record(run: Run, log: metrics.Metrics, progress: Progress, result: StepResult, pace: Pace) -> None:
    """Each step into metrics.jsonl, every log_every steps onto the log."""
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


def raise_stop(asked: str, progress: Progress) -> None:
    """The run is saved: end it with the contract's code."""
    if asked == outcome.TIME_LIMIT:
        raise TimeLimit(f"max_hours is over at step {progress.step}; saved: raise cluster.max_hours and submit again")
    raise Preempted(f"stopped at step {progress.step} as asked; saved: submit again to continue from there")


def evaluate(run: Run, step: int, log: metrics.Metrics | None) -> dict[str, float]:
    """Held-out losses and sample answers after `step` updates, the same on every rank."""
    start = time.monotonic()
    run.model.eval()
    with torch.no_grad():
        losses = held_out_loss(run.engine.module, run.data.validation, run.subset, run.packing, run.ranks)
        answers = sample(run)
    if log is not None:
        said = " ".join(f"{name}={value:.4f}" for name, value in losses.items())
        say(f"evaluation step={step} {said} items={len(run.subset)} seconds={time.monotonic() - start:.1f}")
        log.write({"step": step, "evaluation": losses, "seconds": time.monotonic() - start})
        log.write_samples([{"step": step, **answer} for answer in answers])
    return losses


def judged(run: Run, progress: Progress, log: metrics.Metrics | None) -> Progress:
    """Evaluate where that is due: before the first step, and after those that the schedule names."""
    step = progress.step
    due = step == 0 or is_evaluation(step, len(run.data.train), run.train)
    if not (run.subset and due and progress.evaluated < step):
        return progress
    losses, progress = evaluate(run, step, log), replace(progress, evaluated=step)
    return judge(run, progress, losses) if step else replace(progress, before=losses)


def judge(run: Run, progress: Progress, losses: dict[str, float]) -> Progress:
    """Keep the best adapter; count evaluations that brought less than min_delta."""
    loss = losses["loss"]
    if not math.isfinite(loss):
        raise Diverged(f"step {progress.step}: the held-out loss is {loss}: lower train.optim.lr and submit again")
    if progress.best_loss is None or loss < progress.best_loss:
        progress = replace(progress, best_loss=loss, best_step=progress.step, best=losses)
        publish_adapter(run, progress, run.folder.adapter)
    if progress.patience_loss is None or loss < progress.patience_loss - run.train.evaluation.min_delta:
        return replace(progress, patience_loss=loss, evaluations_without_gain=0)
    return replace(progress, evaluations_without_gain=progress.evaluations_without_gain + 1)


def exhausted(run: Run, progress: Progress) -> bool:
    """True where early stopping ends the run."""
    patience = run.train.evaluation.patience
    over = patience is not None and progress.evaluations_without_gain >= patience
    if over and run.ranks.first:
        say(
            f"early stop at step {progress.step}: {patience} evaluations without a gain, best step {progress.best_step}"
        )
    return over


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
    ranks = join()
    run = setup(file, ranks)
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
    sys.exit(main())
