"""The first process in the pod: done already? inputs, owner, attempts, data, ranks, outcome -> exit code.

Loads neither torch nor transformers: what it decides must hold when those hang, crash or are missing. Node 0 owns
the run folder; the other nodes only run their ranks and write their own log file there.
"""

import argparse
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.atomic import heal, named_errors, read_object, write_text
from trainer.base_model import check_model, model_folder
from trainer.errors import AttemptsUsedUp, OwnershipLost, RunsFolderError, TimeLimit, TrainerError
from trainer.pod import attempts, preconditions
from trainer.pod.attempts import Attempt
from trainer.pod.environment import config_path, read_pod, scratch
from trainer.pod.node import Node, run_once, train
from trainer.pod.outcome import Outcome, from_error
from trainer.pod.ownership import TIMING, Ownership, Timing, acquire
from trainer.pod.result import done_already, phase_of, write_result, write_termination_message
from trainer.pod.stopping import Stop
from trainer.pod.tee import Tee
from trainer.report.process import write_report
from trainer.schema import contract
from trainer.schema.contract import ExitCode, RunFolder
from trainer.schema.loading import read_run_file
from trainer.schema.messages import attempt_line
from trainer.schema.redaction import redacted

REPORT_SECONDS = 20.0
"""How long an attempt's end may wait for its report."""
DRY_RUN = (sys.executable, "-m", "trainer.train", "--dry-run")


def main(argv: Sequence[str] | None = None, command: Sequence[str] | None = None, timing: Timing = TIMING) -> int:
    """Run one attempt; the contract's exit code. `command` runs in place of torchrun and the ranks."""
    parser = argparse.ArgumentParser(prog="python -m trainer.launch", description="Run one attempt of a run.")
    parser.add_argument("--config", help="the rendered run file (default: $TRAINER_CONFIG, else the ConfigMap)")
    parser.add_argument("--dry-run", action="store_true", help="check, report and count; train and write nothing")
    options = parser.parse_args(argv)
    tee, stop = Tee(), Stop()
    stop.install()
    try:
        outcome = launch(options, tee, stop, command, timing)
    except TrainerError as error:
        outcome = from_error(error)
    except Exception as error:  # noqa: BLE001 (the boundary: whatever it is ends in a code and a sentence)
        tee.say(traceback.format_exc())
        outcome = Outcome(ExitCode.UNKNOWN, redacted(f"the launcher failed: {type(error).__name__}: {error}"))
    stop.interrupts = False
    tee.say(f"{phase_of(outcome.code)}: {outcome.sentence} (code {int(outcome.code)})")
    write_termination_message(outcome, os.environ.get(contract.ENV_TERMINATION_LOG))
    tee.close()
    return int(outcome.code)


def launch(options: argparse.Namespace, tee: Tee, stop: Stop, command: Sequence[str] | None, timing: Timing) -> Outcome:
    """The story of one attempt. TrainerError where it ends early."""
    pod, config = read_pod(os.environ), config_path(options.config)
    stop.grace = pod.grace
    file = read_run_file(config)
    # At once, whatever takes long below: kctl tells by it whether a log is whole (kctl/run/kept.py).
    tee.say(f"run {file.run}, node {pod.node} of {pod.nodes}")
    folder = RunFolder(pod.runs / file.run)
    done = done_already(folder, file.run)
    if done is not None and not options.dry_run:
        return done
    preconditions.check_packages(file.train)
    check_model(file.train, pod.models)
    preconditions.check_data(file.train, pod.data)
    preconditions.check_init_adapter(file.train, pod.runs, pod.models)
    if not options.dry_run:
        preconditions.check_runs_folder(folder, file)
    with scratch(pod) as work:
        node = Node(pod, file, config, folder, work, tee, stop, command)
        if options.dry_run:
            return dry_run(node)
        return lead(node, timing) if pod.node == 0 else follow(node)


def lead(node: Node, timing: Timing) -> Outcome:
    """Node 0: own the folder, make the attempt, put its end on record."""
    timing = replace(timing, patience=max(timing.patience, node.pod.grace + 60))  # an old pod may still be saving
    ownership = acquire(node.folder, node.pod.uid, node.tee.say, timing)
    started = time.monotonic()
    outcome = Outcome(ExitCode.UNKNOWN, "the launcher failed; the traceback is in the log")
    try:
        outcome = attempt(node, ownership, started)
    except TrainerError as error:
        outcome = from_error(error)
    finally:
        node.stop.interrupts = False
        outcome = conclude(node, ownership, outcome, time.monotonic() - started)
    return replace(outcome, attempt=ownership.owner.attempt)


def attempt(node: Node, ownership: Ownership, started: float) -> Outcome:
    """One attempt of the owner, from the books to the ranks' end."""
    folder, number = node.folder, ownership.owner.attempt
    before = attempts.read_attempts(folder)
    if before and before[-1].code is None:  # killed: its heart beat is all that is known of how long it lived
        before = [*before[:-1], replace(before[-1], seconds=ownership.lasted)]
    tidy(node, ownership, fresh=not attempts.series(before))
    node.tee.open(folder.log(number, 0))
    newest = attempts.newest_checkpoint(folder)
    attempts.write_attempts(folder, [*before, Attempt(number, node.pod.uid, newest)], ownership)
    node.tee.say(attempt_line(number, node.file.run, newest))
    if attempts.used_up(before, newest):
        raise AttemptsUsedUp(
            f"{attempts.MAX_WITHOUT_CHECKPOINT} attempts brought no new checkpoint (newest: step {newest}); "
            f"the last one: {before[-1].sentence or 'killed without a word'}; see kctl logs, then submit again"
        )
    pause = attempts.backoff(before)
    if pause:
        node.tee.say(f"the attempt before failed: waiting {pause:.0f} s")
        time.sleep(pause)
    return train(node, prepare_data(node, ownership), ownership, deadline(node, started, before))


def tidy(node: Node, ownership: Ownership, fresh: bool) -> None:
    """Drop what killed writers left, an old wish to stop and, in a new series, what the old one decided; write
    config.json."""
    ownership.check()
    heal(node.folder.root)
    heal(node.folder.checkpoints)
    with named_errors(node.folder.root):
        node.folder.result.unlink(missing_ok=True)
        node.folder.stop.unlink(missing_ok=True)
        if fresh:
            node.folder.plan.unlink(missing_ok=True)
    write_text(node.folder.config, node.file.to_json(), ownership.check)


def deadline(node: Node, started: float, before: Sequence[Attempt]) -> float | None:
    """When max_hours is over, on the monotonic clock; None: never. TimeLimit if it is over already."""
    if node.pod.max_seconds is None:
        return None
    end = started + node.pod.max_seconds - attempts.spent(before)
    if end <= time.monotonic():
        raise TimeLimit("cluster.max_hours is used up: raise it and submit again to go on from the newest checkpoint")
    return end


def follow(node: Node) -> Outcome:
    """Another node: the same data, its own ranks, its own log file; everything else is node 0's."""
    names = [path.name for path in node.folder.logs.iterdir()] if node.folder.logs.is_dir() else []
    own = [re.fullmatch(rf"attempt-(\d+)-node-{node.pod.node}\.log", name) for name in names]
    number = max((int(match[1]) for match in own if match), default=0) + 1
    node.tee.open(node.folder.log(number, node.pod.node))
    return train(node, prepare_data(node, None), None, None)


def prepare_data(node: Node, ownership: Ownership | None) -> dict[str, str]:
    """Tokenise the data into the scratch folder and report; the part of the ranks' environment that says where."""
    from trainer.dataset.prepare import prepare  # not needed where the run is done already
    from trainer.dataset.tokenizer import FILES

    out = node.work / "prepared"
    model = model_folder(node.file.train, node.pod.models)
    report = prepare(node.file.train.data, node.pod.data, model, out, node.tee.say)
    for line in report.lines():
        node.tee.say(line)
    if ownership is not None:
        before = read_object(node.folder.report).get("tokenizer", report.tokenizer)
        if before != report.tokenizer:
            node.tee.say(
                f"{model}: tokenizer or chat template is not what the attempt before had ({', '.join(FILES)}): put the "
                "old files back, or raise train.revision; a checkpoint trained on other tokens is refused"
            )
        write_text(node.folder.report, report.to_json(), ownership.check)
    return {contract.ENV_PREPARED: str(out)}


def dry_run(node: Node) -> Outcome:
    """The data report, one rendered prompt with its mask, and what the trainer counts; nothing is written."""
    own = prepare_data(node, None)
    from trainer.dataset.prepared import load_prepared, show_item

    items = load_prepared(Path(own[contract.ENV_PREPARED])).train
    node.tee.say(show_item(items, 0, model_folder(node.file.train, node.pod.models)))
    node.stop.protect()
    outcome = run_once(node, node.command or DRY_RUN, own, lambda: True, dry=True)
    if outcome.code is ExitCode.SUCCEEDED:
        return replace(outcome, sentence="dry run: everything needed is there; nothing was trained or written")
    return outcome


def conclude(node: Node, ownership: Ownership, outcome: Outcome, seconds: float) -> Outcome:
    """Put the end on record and let the next owner in; the outcome, worse where that failed."""

    def write_down() -> None:
        write_result(node.folder, ownership, outcome)

    def end_attempt() -> None:
        history = attempts.read_attempts(node.folder)
        if history and history[-1].attempt == ownership.owner.attempt and history[-1].code is None:
            ended = attempts.with_end(history, int(outcome.code), outcome.sentence, seconds)
            attempts.write_attempts(node.folder, ended, ownership)

    def report() -> None:
        left = node.stop.kill_at - time.monotonic() if node.stop.asked else REPORT_SECONDS
        own = {contract.ENV_OWNER: ownership.owner.token}
        said = write_report(node.folder.root, own, min(left, REPORT_SECONDS))
        if said:
            node.tee.say(said)

    records: tuple[Callable[[], None], ...] = (write_down, end_attempt, report, ownership.release)
    for record in records:
        try:
            record()
        except OwnershipLost as error:
            return from_error(error)
        except RunsFolderError as error:
            node.tee.say(str(error))
            if record is write_down and outcome.code is ExitCode.SUCCEEDED:
                outcome = from_error(error)  # a success that is not on record would be trained again
    return outcome


if __name__ == "__main__":
    sys.exit(main())
