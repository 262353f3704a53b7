"""How runs look in a terminal: tables, the status page, next commands, and the words a run ends with."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from kctl import console
from kctl.backends.run_view import RunView
from kctl.errors import RunFailed
from kctl.run.find import run_of_config
from kctl.run.options import Output
from trainer.schema.contract import Phase
from trainer.schema.redaction import without_known

KIND = "pytorchjob.kubeflow.org"


def structured(value: Any, output: Output) -> str:
    """`value` as JSON or YAML, without credentials: YAML folds long lines, where nobody would know one again."""
    plain = _cleaned(json.loads(json.dumps(value)))
    if output is Output.JSON:
        return json.dumps(plain, indent=2)
    import yaml

    text: str = yaml.safe_dump(plain, sort_keys=False)
    return text.rstrip("\n")


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {without_known(key): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner) for inner in value]
    return without_known(value) if isinstance(value, str) else value


def print_list(views: Sequence[RunView], output: Output, now: datetime) -> None:
    """All runs, in the order given, with their age at `now`, by the backend's clock."""
    if output is Output.NAME:
        if views:
            console.data("\n".join(f"{KIND}/{view.run}" for view in views))
    elif output is not Output.TABLE:
        console.data(structured([asdict(view) for view in views], output))
    else:
        rows = [(view.run, str(view.phase), step_text(view), loss_text(view), age(view.created, now)) for view in views]
        console.table(("RUN", "PHASE", "STEP", "LOSS", "AGE"), rows)


def status_page(view: RunView, flags: str, output: Output, now: datetime) -> str:
    """One run in full; `now` by the backend's clock."""
    if output is Output.NAME:
        return f"{KIND}/{view.run}"
    if output is not Output.TABLE:
        return structured(asdict(view), output)
    rows = [("Run:", view.run), ("Config:", view.config or "-"), ("Phase:", str(view.phase))]
    rows += [("Step:", step_text(view)), ("Loss:", loss_text(view))]
    if view.eta_s is not None and not view.phase.finished:
        rows.append(("Left:", span(view.eta_s)))
    if view.tokens_per_s is not None and math.isfinite(view.tokens_per_s):
        rows.append(("Speed:", f"{view.tokens_per_s:,.0f} tokens/s"))
    if view.mem_gib is not None and math.isfinite(view.mem_gib):
        rows.append(("Memory:", f"{view.mem_gib:.1f} GiB at most"))
    if view.attempt is not None:
        rows.append(("Attempt:", str(view.attempt)))
    rows += [(f"{word}:", f"{local_time(at)} ({age(at, now)} ago)") for word, at in _moments(view)]
    for pod in view.pods:
        ended = f", code {pod.code}" if pod.code is not None else f", {pod.reason}" if pod.reason else ""
        rows.append(("Pod:", f"{pod.name}  {pod.phase}{ended}"))
    if view.sentence:
        rows.append(("Message:", view.sentence))
    rows.append(("Next:", next_command(view, flags)))
    return "\n".join(f"{name:<9} {console.printable(value)}" for name, value in rows)


def _moments(view: RunView) -> list[tuple[str, str]]:
    return [(word, at) for word, at in (("Created", view.created), ("Ended", view.ended)) if at]


def next_command(view: RunView, flags: str) -> str:
    """What a person most likely wants to type now."""
    if view.phase is Phase.SUCCEEDED:
        return f"kctl pull {view.run}{flags}"
    if view.phase is Phase.CANCELLED:
        return resume(view, flags)
    if view.phase is Phase.FAILED:
        return f"kctl explain {view.run}{flags}; then {resume(view, flags)}"
    if view.phase in (Phase.PENDING, Phase.QUEUED, Phase.RESTARTING):
        return f"kctl explain {view.run}{flags}"
    return f"kctl logs -f {view.run}{flags}"


def resume(view: RunView, flags: str) -> str:
    """The command that takes a run up again that has ended."""
    # A config that was edited since, or was given --set, names another run today: its bare name would start that one.
    if view.config and run_of_config(view.config) == view.run:
        return f"kctl submit {view.config}{flags} (resumes)"
    return f"kctl submit CONFIG{flags} with the content and --set that named {view.run} (resumes)"


def ended_well(view: RunView, flags: str) -> str:
    """The words for a run that succeeded; RunFailed (3) with the trainer's sentence for one that did not."""
    if view.phase is Phase.SUCCEEDED:
        return f"run {view.run} succeeded; {next_command(view, flags)}"
    what = "was cancelled" if view.phase is Phase.CANCELLED else f"failed{f' (code {view.code})' if view.code else ''}"
    why = f": {view.sentence}" if view.sentence else ""
    raise RunFailed(f"run {view.run} {what}{why}; next: {next_command(view, flags)}")


def step_text(view: RunView) -> str:
    """`100/1000`, or `-`."""
    if view.step is None:
        return "-"
    return f"{view.step}/{view.steps}" if view.steps else str(view.step)


def loss_text(view: RunView) -> str:
    """Its newest loss."""
    return loss_of(view.loss)


def loss_of(loss: float | None) -> str:
    """Four digits after the point, or `-`."""
    return f"{loss:.4f}" if loss is not None else "-"


def size_of(count: int) -> str:
    """Bytes in the largest unit of which there is one."""
    units = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
    return next((f"{count / size:.1f} {unit}" for size, unit in units if count >= size), f"{count} B")


def span(seconds: float) -> str:
    """A length of time in its two largest units: `45s`, `12m5s`, `3h10m`, `2d4h`."""
    whole = max(0, int(min(seconds, 1e9)))
    for size, unit, lower, lower_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}" + (f"{rest}{lower_unit}" if (rest := whole % size // lower) else "")
    return f"{whole}s"


def local_time(moment: datetime | str) -> str:
    """A moment, or an RFC 3339 time, in this machine's zone: `2026-11-26 10:22:31 CET`; as it is where it is none."""
    try:
        at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (ValueError, OverflowError, OSError):
        return str(moment)


def age(created: str, now: datetime) -> str:
    """Time from an RFC 3339 time to `now`; `-` where that is none."""
    try:
        return span((now - datetime.fromisoformat(created)).total_seconds())
    except (ValueError, TypeError):
        return "-"
