"""Causes of an end by what the run itself said, and the operator of it.

Codes: trainer.schema.contract.ExitCode. Words: training operator 1.9.4, pkg/controller.v1/common.
"""

import re
from collections.abc import Iterator

from kctl.backends.facts import Facts, Said
from kctl.backends.run_view import condition
from kctl.explain.cause import Cause, Predicate, Seen, says
from trainer.schema.contract import ExitCode, Phase

_EXITED = re.compile(r"ExitedWithCode: Pod: \S+?\.(?P<pod>\S+) exited with code (?P<code>\d+)")
LOG_LINES = 5
"""Last lines of the log that go with an end that nobody explained."""
RESUME = "{resume}"
LOGS = "kctl logs {run}{flags}"


def last_end(facts: Facts) -> tuple[int, str] | None:
    """(exit code, pod) of the newest end that is known: of a pod that is there, else of the operator's event."""
    if facts.view.code:
        teller = next((pod.name for pod in facts.view.pods if pod.code == facts.view.code), facts.view.run)
        return facts.view.code, teller
    for said in facts.job_events():
        match = _EXITED.search(said.words)
        if match and int(match["code"]):
            return int(match["code"]), match["pod"]
    return None


def code(*codes: int, says_so: str = "") -> Predicate:
    """The last end had one of these codes, and its sentence has these words."""

    def seen(facts: Facts) -> Seen | None:
        end = last_end(facts)
        if end is None or end[0] not in codes or not re.search(says_so, facts.view.sentence, re.IGNORECASE):
            return None
        fields = {"code": str(end[0]), "pod": end[1], "why": _why(facts, end[1])}
        return Seen(fields, (f"pod {end[1]}: code {end[0]}", *tail(facts)))

    return seen


def _why(facts: Facts, pod: str) -> str:
    """The pod's own last words, else what status says."""
    own = next((one.message.sentence for one in facts.view.pods if one.name == pod), None)
    return (own or facts.view.sentence or "its pod is gone, and with it what it said").rstrip(".")


def tail(facts: Facts) -> tuple[str, ...]:
    """The last lines of the log, of a run that has ended."""
    if facts.view.phase not in (Phase.FAILED, Phase.RESTARTING):
        return ()
    return tuple(f"log: {text.strip()}" for _, text in facts.log[-LOG_LINES:] if text.strip())


def crashed(pattern: str) -> Predicate:
    """The run failed without the trainer's own words, and the log or the message has these."""

    def lines(facts: Facts) -> Iterator[Said]:
        yield from facts.pod_ends()
        yield from facts.log_lines()

    words = says(lines, pattern)

    def seen(facts: Facts) -> Seen | None:
        return words(facts) if facts.view.code and facts.view.code not in list(ExitCode) else None

    return seen


def failed_because(pattern: str) -> Predicate:
    """The operator's own reason for the condition Failed."""

    def seen(facts: Facts) -> Seen | None:
        message = str((condition(facts.job, "Failed") or {}).get("message", ""))
        return Seen({}, (f"job: {message}",)) if re.search(pattern, message) else None

    return seen


SAID = (
    Cause(
        "supervisor-gone",
        failed_because(r"^the supervisor is gone"),
        "the process that looked after the run on this machine is gone (killed, or the machine was restarted)",
        RESUME,
    ),
    Cause(
        "deadline",
        failed_because(r"active longer than specified deadline"),
        "the job was stopped by its activeDeadlineSeconds, which kctl never sets",
        "use cluster.max_hours instead, which saves first; then " + RESUME,
    ),
    Cause(
        "backoff-limit",
        failed_because(r"reached the specified backoff limit"),
        "the job was stopped by its backoffLimit, which kctl never sets",
        "remove it from the manifest; then " + RESUME,
    ),
    Cause(
        "other-version",
        code(ExitCode.CONFIG, says_so=r"kctl and this image disagree|render it with kctl"),
        "kctl and the trainer's image are of different versions: {why}",
        "set image in the cluster profile to this version's; then " + RESUME,
    ),
    Cause(
        "model-absent",
        code(ExitCode.CONFIG, says_so=r"train\.model|copy the model again|safetensors|may not be read"),
        "the base model cannot be used: {why}",
        "kctl push MODEL --to models{flags}, or correct train.model; then " + RESUME,
    ),
    Cause(
        "config", code(ExitCode.CONFIG), "the config cannot be run: {why}", "correct it, then: kctl validate {config}"
    ),
    Cause(
        "data-absent",
        code(ExitCode.DATA, says_so=r"no such file|may not be read"),
        "the data cannot be read: {why}",
        "kctl push FILE --to data{flags}, or correct train.data; then " + RESUME,
    ),
    Cause("data", code(ExitCode.DATA), "the data cannot be trained on: {why}", LOGS),
    Cause(
        "out-of-gpu-memory",
        code(ExitCode.OUT_OF_MEMORY),
        "the GPUs have too little memory, with the smallest plan too: {why}",
        "lower train.data.max_length or train.ops.max_tokens, or use more GPUs; then submit again",
    ),
    Cause(
        "diverged",
        code(ExitCode.DIVERGED),
        "training diverged: {why}",
        "kctl logs {run}{flags}; lower train.optim.lr, or look at the items that it names",
    ),
    Cause("checkpoint", code(ExitCode.CHECKPOINT), "no checkpoint can be used: {why}", LOGS),
    Cause(
        "volume-full",
        code(ExitCode.RUNS_FOLDER, says_so=r"No space left|make room|quota exceeded"),
        "the runs volume is full: {why}",
        "kctl prune --outputs --older-than 30d{flags}; then " + RESUME,
    ),
    Cause("runs-folder", code(ExitCode.RUNS_FOLDER), "the run's folder cannot be used: {why}", LOGS),
    Cause(
        "attempts",
        code(ExitCode.ATTEMPTS),
        "several attempts in a row came no further: {why}",
        "kctl logs {run}{flags}; mend that, then " + RESUME,
    ),
    Cause(
        "time-limit",
        code(ExitCode.TIME_LIMIT),
        "cluster.max_hours is over; the run is saved",
        "raise cluster.max_hours; then " + RESUME,
    ),
    Cause(
        "owner-lost", code(ExitCode.OWNERSHIP_LOST), "another pod writes the same run: {why}", "kctl wait {run}{flags}"
    ),
    Cause(
        "told-to-stop",
        code(ExitCode.PREEMPTED),
        "the pod was told to stop and saved: {why}",
        "kctl wait {run}{flags}; it goes on by itself",
    ),
    Cause(
        "peer-lost",
        code(ExitCode.PEER_LOST),
        "a node of the run went away, and the others could not go on: {why}",
        LOGS,
    ),
    Cause(
        "device",
        code(ExitCode.DEVICE),
        "a GPU failed: {why}",
        "kctl logs {run}{flags}; if it is the same node each time, keep runs away from it",
    ),
    Cause(
        "rendezvous",
        code(ExitCode.RENDEZVOUS),
        "the nodes did not find each other: {why}",
        "kctl logs {run}{flags}; pods of one job must reach each other on all ports (NetworkPolicy)",
    ),
    Cause(
        "hanging",
        code(ExitCode.HANGING),
        "ranks stood still: {why}",
        "kctl logs {run}{flags}; stacks of all ranks are in the run's logs folder",
    ),
    Cause(
        "not-the-trainers-image",
        crashed(r"ModuleNotFoundError: No module named '(?P<module>[^']+)'"),
        "the image has no Python module {module}: it is not the trainer's",
        "correct image in the cluster profile: make image prints its name",
    ),
    Cause(
        "wrong-platform",
        crashed(r"exec format error"),
        "the image is not built for the nodes' kind of processor",
        "build it for the nodes' platform: make image",
    ),
    Cause(
        "not-a-program",
        code(126, 127, 128),
        "the pod's command could not be run: {why}",
        "correct image in the cluster profile: make image prints its name",
    ),
    Cause("crashed", code(132, 134, 135, 136, 139), "the program crashed in native code (code {code}): {why}", LOGS),
    Cause(
        "killed",
        code(137),
        "the pod was killed without a word (code 137): by the kernel for want of memory, or by somebody",
        "kctl logs {run}{flags}; more memory in the cluster profile, or on this machine, helps the first",
    ),
    Cause("unknown", code(ExitCode.UNKNOWN), "the attempt failed: {why}", LOGS),
    Cause("ended", code(*range(1, 256)), "the run ended with code {code}: {why}", LOGS),
    Cause("failed", failed_because(r""), "the job failed, and no pod is left that could say why", LOGS),
)
