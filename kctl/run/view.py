"""How runs look in a terminal: tables, the status page, next commands, and the words a run ends with."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from kctl import console
from kctl.errors import RunFailed
from kctl.run.find import run_of_config
from kctl.run.job import Job
from kctl.run.options import Output
from trainer.schema.contract import Phase

KIND = "pytorchjob.kubeflow.org"


def structured(value: Any, output: Output) -> str:
    """`value` as JSON or YAML."""
    if output is Output.JSON:
        return json.dumps(value, indent=2)
    import yaml

    text: str = yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False)
    return text.rstrip("\n")


def print_list(jobs: Sequence[Job], output: Output) -> None:
    """All runs, in the order given."""
    if output is Output.NAME:
        if jobs:
            console.data("\n".join(f"{KIND}/{job.run}" for job in jobs))
    elif output is not Output.TABLE:
        console.data(structured([asdict(job) for job in jobs], output))
    else:
        rows = [(job.run, str(job.phase), step_text(job), loss_text(job), age(job.created)) for job in jobs]
        console.table(("RUN", "PHASE", "STEP", "LOSS", "AGE"), rows)


def status_page(job: Job, flags: str, output: Output) -> str:
    """One run in full."""
    if output is Output.NAME:
        return f"{KIND}/{job.run}"
    if output is not Output.TABLE:
        return structured(asdict(job), output)
    rows = [("Run:", job.run), ("Config:", job.config or "-"), ("Phase:", str(job.phase)), ("Step:", step_text(job))]
    rows.append(("Loss:", loss_text(job)))
    if job.eta_s is not None and not job.phase.finished:
        rows.append(("Left:", span(job.eta_s)))
    if job.attempts is not None:
        rows.append(("Attempt:", str(job.attempts)))
    rows.append(("Created:", f"{job.created} ({age(job.created)} ago)"))
    for pod in job.pods:
        ended = f", code {pod.code}" if pod.code is not None else f", {pod.reason}" if pod.reason else ""
        rows.append(("Pod:", f"{pod.name}  {pod.phase}{ended}"))
    if job.sentence:
        rows.append(("Message:", job.sentence))
    rows.append(("Next:", next_command(job, flags)))
    return "\n".join(f"{name:<9} {console.printable(value)}" for name, value in rows)


def next_command(job: Job, flags: str) -> str:
    """What a person most likely wants to type now."""
    if job.phase is Phase.SUCCEEDED:
        return f"kctl pull {job.run}{flags}"
    if job.phase is Phase.CANCELLED:
        return _resume(job, flags)
    if job.phase is Phase.FAILED:
        return f"kctl logs {job.run}{flags}; then {_resume(job, flags)}"
    return f"kctl logs -f {job.run}{flags}"


def _resume(job: Job, flags: str) -> str:
    # A config that was edited since, or was given --set, names another run today: its bare name would start that one.
    if job.config and run_of_config(job.config) == job.run:
        return f"kctl submit {job.config}{flags}   (resumes)"
    return f"kctl submit CONFIG{flags} with the content and --set that named {job.run}   (resumes)"


def ended_well(job: Job, flags: str) -> str:
    """The words for a run that succeeded; RunFailed (3) with the trainer's sentence for one that did not."""
    if job.phase is Phase.SUCCEEDED:
        return f"run {job.run} succeeded; {next_command(job, flags)}"
    what = "was cancelled" if job.phase is Phase.CANCELLED else f"failed{f' (code {job.code})' if job.code else ''}"
    why = f": {job.sentence}" if job.sentence else ""
    raise RunFailed(f"run {job.run} {what}{why}; next: {next_command(job, flags)}")


def step_text(job: Job) -> str:
    """`100/1000`, or `-`."""
    return (
        f"{job.step}/{job.steps}" if job.step is not None and job.steps else "-" if job.step is None else str(job.step)
    )


def loss_text(job: Job) -> str:
    """Four digits after the point, or `-`."""
    return f"{job.loss:.4f}" if job.loss is not None else "-"


def span(seconds: float) -> str:
    """A length of time in its two largest units: `45s`, `12m5s`, `3h10m`, `2d4h`."""
    whole = max(0, int(min(seconds, 1e9)))
    for size, unit, lower, lower_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}" + (f"{rest}{lower_unit}" if (rest := whole % size // lower) else "")
    return f"{whole}s"


def age(created: str) -> str:
    """Time since an RFC 3339 time; `-` where that is none."""
    try:
        return span((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    except (ValueError, TypeError):
        return "-"
