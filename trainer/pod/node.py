"""One node's share of an attempt: its ranks, run once, and once more with less memory if the GPU had too little."""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.atomic import heal, named_errors, read_object, write_json
from trainer.pod.environment import Pod
from trainer.pod.outcome import HANG, PREEMPTED, TIME_LIMIT, Ending, Outcome, decide, read_outcomes
from trainer.pod.ownership import Ownership
from trainer.pod.ranks import rank_environment, run_ranks, torchrun
from trainer.pod.stopping import Stop
from trainer.pod.tee import Tee
from trainer.schema import contract
from trainer.schema.contract import ExitCode, RunFolder
from trainer.schema.loading import RunFile


@dataclass(frozen=True)
class Node:
    """What this launcher works with."""

    pod: Pod
    file: RunFile
    config: Path
    folder: RunFolder
    work: Path
    """Node-local, gone with the pod."""
    tee: Tee
    stop: Stop
    command: Sequence[str] | None
    """What runs instead of torchrun with the ranks."""


def train(node: Node, own: Mapping[str, str], ownership: Ownership | None, end: float | None) -> Outcome:
    """Run the ranks until they are done, stopped or broken; `end`: when max_hours is over, on the monotonic clock."""
    node.stop.protect()
    level = read_plan(node.folder)

    def watch() -> bool:
        if end is not None and time.monotonic() >= end:
            node.stop.ask(TIME_LIMIT)
        if node.pod.stop_wished or (ownership is not None and ownership.asked):
            node.stop.ask(PREEMPTED)
        return ownership is None or not ownership.lost

    while True:
        environ = {**own, contract.ENV_PLAN: str(level), contract.ENV_RUN_FOLDER: str(node.folder.root)}
        if ownership is not None:
            environ[contract.ENV_OWNER] = ownership.owner.token
        outcome = run_once(node, node.command or torchrun(os.environ), environ, watch)
        if ownership is not None:
            ownership.check()  # who lost the run has no say in how it ended
        if outcome.code is not ExitCode.OUT_OF_MEMORY or level > 0:
            return outcome
        level = 1
        # Also by other nodes than 0: whoever has too little memory must be heard at the next start.
        write_json(node.folder.plan, {"level": level, "reason": outcome.sentence})
        if node.stop.asked is not None:
            return replace(outcome, code=ExitCode.PREEMPTED if node.stop.asked == PREEMPTED else ExitCode.TIME_LIMIT)
        if node.pod.nodes > 1:  # the other nodes have lost these ranks: all start again, with the new plan
            return replace(outcome, code=ExitCode.PEER_LOST)
        if ownership is not None:
            heal(node.folder.checkpoints)  # the write that this interrupted
        node.tee.say(f"out of GPU memory: starting once more with memory plan {level}")


def run_once(
    node: Node, command: Sequence[str], own: Mapping[str, str], watch: Callable[[], bool], dry: bool = False
) -> Outcome:
    """Run `command` to its end and judge by what the ranks wrote."""
    words, stop_file = node.work / "outcomes", node.work / "stop"
    with named_errors(words):
        shutil.rmtree(words, ignore_errors=True)
        words.mkdir()
    places = {contract.ENV_OUTCOMES: str(words), contract.ENV_STOP_FILE: str(stop_file)}
    # For the flight recorder: NCCL's own timeout, where it is the shorter one, leaves its record beside the stacks.
    places |= {"TORCH_FR_BUFFER_SIZE": "2000", "TORCH_FR_DUMP_TEMP_FILE": str(words / HANG / "nccl-timeout-rank-")}
    if node.pod.nodes > 1 and "NCCL_DEBUG" not in os.environ:  # trainer.distributed.network reads what it says
        places |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET", "NCCL_DEBUG_FILE": f"{node.work}/nccl-%p"}
    places |= {contract.ENV_CONFIG: str(node.config.absolute()), contract.ENV_RUNS: str(node.pod.runs)}
    environ = rank_environment(os.environ, {**places, **own})
    status, unjoined = run_ranks(command, environ, node.tee, node.stop, watch)
    keep_stacks(words / HANG, node.tee)
    ending = Ending(status, node.stop.asked, node.pod.node, node.pod.nodes, unjoined, dry)
    by_rank, progress = read_outcomes(words)
    return replace(decide(by_rank, ending, bool(progress)), progress=progress)


def keep_stacks(found: Path, tee: Tee) -> None:
    """What hanging ranks left in the folder `found`, into the run's logs beside this attempt's."""
    for path in sorted(found.iterdir()) if tee.path is not None and found.is_dir() else ():
        if path.stat().st_size and tee.path is not None:
            kept = tee.path.with_name(f"{tee.path.stem}-{path.name}")
            try:
                shutil.copyfile(path, kept)
            except OSError as error:  # the code and the sentence matter more
                tee.say(f"{kept}: {error.strerror}: what {path.name} holds is lost")


def read_plan(folder: RunFolder) -> int:
    """The memory plan's level that the run needs by what is known so far: 0 or 1."""
    return 1 if read_object(folder.plan).get("level") == 1 else 0
