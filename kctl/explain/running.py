"""Causes while it runs: why it is slow, stands still, or seems to. From the trainer's own last lines."""

from collections.abc import Iterator

from kctl.backends.facts import Facts, Said
from kctl.backends.run_view import pods_wanted
from kctl.explain.cause import Cause, Seen, says
from kctl.explain.ending import LOGS, last_end
from trainer.schema.contract import Phase
from trainer.schema.messages import Step, parse_step_line

_log = Facts.log_lines
QUIET_SECONDS = 900.0
"""Without a line for so long something is wrong, or the first step compiles; ops.hang_after ends it otherwise."""


def newest_step(facts: Facts) -> Step | None:
    """The last step that the log tells of."""
    return next((step for _, text in reversed(facts.log) if (step := parse_step_line(text))), None)


def since_last_step(facts: Facts) -> Iterator[Said]:
    """The log's lines after its last step, the newest first: what is said there is still so."""
    for said in facts.log_lines():
        if parse_step_line(said.words):
            return
        yield said


def quiet(facts: Facts) -> Seen | None:
    """The log has stood still for long."""
    if not facts.log or facts.view.phase is not Phase.RUNNING:
        return None
    moment, text = facts.log[-1]
    seconds = facts.since(moment)
    if seconds < QUIET_SECONDS:
        return None
    shown = f"log: last line {seconds / 60:.0f} min ago: {text.strip()}"
    return Seen({"minutes": f"{seconds / 60:.0f}"}, (shown,))


def restarted(facts: Facts) -> Seen | None:
    """An earlier pod of it ended, and it goes on."""
    end = last_end(facts)
    return Seen({"code": str(end[0]), "pod": end[1]}, (f"pod {end[1]} before: code {end[0]}",)) if end else None


def no_step_yet(facts: Facts) -> Seen | None:
    """It runs and has made no step."""
    if newest_step(facts) is not None:
        return None
    last = facts.log[-1][1].strip() if facts.log else "nothing yet"
    return Seen({"last": last}, (f"log: {last}",))


def steps(facts: Facts) -> Seen | None:
    """It makes steps."""
    step = newest_step(facts)
    if step is None:
        return None
    left = "" if step.eta_s is None else f", about {_about(step.eta_s)} left"
    line = next(text for _, text in reversed(facts.log) if parse_step_line(text))
    return Seen({"step": f"{step.step}/{step.steps}", "left": left}, (f"log: {line.strip()}",))


def _about(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"


RUNNING = (
    Cause(
        "quiet",
        quiet,
        "the run has said nothing for {minutes} minutes: a rank may stand still, which the run notices by itself "
        "(train.ops.hang_after) and then starts again",
        "kctl logs -f {run}{flags}; to start it again: kctl cancel {run}{flags}; then {resume}",
    ),
    Cause(
        "hang-noticed",
        says(since_last_step, r"rank (?P<rank>\d+): (?P<what>.+) has not ended after (?P<seconds>\d+) s"),
        "rank {rank} stands still at {what}; the attempt ends and the run starts again",
        LOGS,
    ),
    Cause(
        "waits-for-owner",
        says(since_last_step, r"waiting for owner (?P<owner>\S+) \(attempt (?P<attempt>\d+)\)"),
        "an earlier pod still holds the run's folder; this one waits until it has let go or stood still for 30 s",
        "kctl logs -f {run}{flags}",
    ),
    Cause(
        "waits-after-failure",
        says(since_last_step, r"the attempt before failed: waiting (?P<seconds>\d+) s"),
        "the attempt before failed, and this one waits {seconds} s before it begins",
        LOGS,
    ),
    Cause(
        "step-without-number",
        says(_log, r"^(?P<what>.+?): skipped, (?P<row>.+?); items"),
        "steps have a loss or gradient that is no number, and are left out: {what}",
        LOGS,
    ),
    Cause(
        "no-room-for-checkpoints",
        says(_log, r"no checkpoint of step (?P<step>\d+): (?P<why>.+); training goes on"),
        "checkpoints cannot be written: {why}",
        "kctl prune --outputs --older-than 30d{flags}; or give the runs volume more room",
    ),
    Cause(
        "checkpoint-failed",
        says(_log, r"no checkpoint: (?P<why>.+); training goes on"),
        "the last checkpoint could not be written: {why}",
        LOGS,
    ),
    Cause(
        "slow-volume",
        says(_log, r"the next checkpoint waits, the one before is still being written"),
        "the runs volume takes longer to write a checkpoint than the run to become due for the next",
        "raise train.ops.checkpoint.every, or use a faster runs volume",
    ),
    Cause(
        "damaged-checkpoint",
        says(_log, r"damaged checkpoint skipped: (?P<why>.+)"),
        "a checkpoint was damaged, and the run went on from the one before: {why}",
        LOGS,
    ),
    Cause(
        "smaller-plan",
        says(_log, r"out of GPU memory: starting once more with memory plan (?P<plan>\d+)"),
        "the GPUs ran out of memory once, and the run goes on with a smaller and slower plan",
        "lower train.ops.max_tokens or train.data.max_length if that happens each time",
    ),
    Cause(
        "slow-network",
        says(_log, r"NET/Socket"),
        "the nodes talk over plain sockets, not over InfiniBand or RoCE: about ten times slower",
        "set rdma and env (NCCL_IB_HCA, NCCL_NET=IB) in the cluster profile",
    ),
    Cause(
        "overfitting",
        says(_log, r"the held-out loss rises: (?P<what>.+)"),
        "the held-out loss rises: {what}",
        "the best adapter is kept: kctl pull {run}{flags}",
    ),
)
STATE = (
    Cause("restarted", restarted, "an earlier pod ended with code {code}, and the run went on in a new one", LOGS),
    Cause(
        "before-the-first-step", no_step_yet, "it runs and has made no step yet: {last}", "kctl logs -f {run}{flags}"
    ),
    Cause("training", steps, "it trains: step {step}{left}", "kctl logs -f {run}{flags}"),
)


def succeeded(facts: Facts) -> Seen | None:
    """It is done."""
    return Seen({"pods": str(pods_wanted(facts.job))}) if facts.view.phase is Phase.SUCCEEDED else None


DONE = (Cause("succeeded", succeeded, "the run succeeded", "kctl pull {run}{flags}"),)
