"""report.html: one file without scripts that asks for nothing from anywhere. page.html has its looks.

Jinja escapes whatever is put in; should that ever fail, the page's own policy forbids scripts and requests.
"""

import functools
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.report.answers import cut, shown
from trainer.report.history import History
from trainer.report.panels import panels
from trainer.schema.contract import ExitCode, Phase
from trainer.schema.redaction import redacted, without_known

MOST_PROMPTS = 8
PACKAGES = ("kctl", "torch", "transformers", "tokenizers", "peft", "deepspeed", "safetensors")

_UNPRINTABLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0xD800, 0xE000)), "\ufffd")


def page(history: History, now: datetime) -> str:
    """The whole document. `now` is in UTC."""
    rendered: str = _template().render(
        history=history,
        phase=phase(history),
        sentence=sentence(history),
        facts=facts(history),
        panels=panels(history),
        losses=losses(history),
        prompts=[shown(one, history.best_step) for one in history.answers[:MOST_PROMPTS]],
        more_prompts=max(0, len(history.answers) - MOST_PROMPTS),
        attempts=attempts(history),
        ended=redacted("\n".join(history.ended)),
        fields=list(fields(history.train)),
        versions=versions(),
        began=redacted("\n".join(history.began)),
        written=f"{now:%Y-%m-%d %H:%M:%S} UTC",
        path=path,
    )
    return rendered


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return jinja.get_template("page.html")


def printable(text: str) -> str:
    """Without characters that a page cannot hold or that would not be seen, and without credentials."""
    return without_known(text).translate(_UNPRINTABLE)


def phase(history: History) -> Phase:
    """As far as the folder knows: it does not tell a cancelled run from one that is about to start again."""
    said = history.result.get("phase")
    if said in (Phase.SUCCEEDED, Phase.FAILED):
        return Phase(said)
    ended = history.attempts and history.attempts[-1].code is not None
    return Phase.RESTARTING if ended else Phase.RUNNING


def sentence(history: History) -> str:
    """Why the newest attempt ended as it did; nothing while all goes well."""
    said = history.result.get("sentence")
    if phase(history) is Phase.FAILED and isinstance(said, str):
        return said
    return history.attempts[-1].sentence if phase(history) is Phase.RESTARTING else ""


def facts(history: History) -> Iterator[tuple[str, str, str]]:
    """(name, value, a word more) for the top of the page."""
    skipped = f"; {history.skipped:,} had a loss that is no number" if history.skipped else ""
    yield "step", f"{history.step:,}", f"of {history.steps:,}{skipped}" if history.steps else ""
    held, best = history.evaluations.get("loss"), history.best_step
    if held is not None and best is not None:
        values = dict(zip(held.steps, held.values, strict=True))
        before = f", {values[0]:.4f} before training" if 0 in values else ""
        yield "best held-out loss", f"{values[best]:.4f}", f"at step {best:,}{before}"
    elif held is not None:
        yield "held-out loss", f"{held.values[-1]:.4f}", "before training"
    if history.seconds:
        cost, count = sum(history.evaluation_seconds.values), len(history.evaluation_seconds)
        share = f"{min(1.0, cost / history.seconds):.0%}"
        yield "time", lasted(history.seconds), f"{share} of it for {count} evaluations ({lasted(cost)})"
    if history.attempts:
        yield "attempts", str(len(history.attempts)), f"the newest from step {history.attempts[-1].started_step:,}"


def losses(history: History) -> Iterator[tuple[str, str, str, str]]:
    """(name, before training, at the best step, newest) of every held-out loss."""
    best = history.best_step
    for name, line in history.evaluations.items():
        values = {step: f"{value:.4f}" for step, value in zip(line.steps, line.values, strict=True)}
        yield name, values.get(0, "-"), "-" if best is None else values.get(best, "-"), f"{line.values[-1]:.4f}"


def attempts(history: History) -> list[tuple[str, str, str]]:
    """(number, what became of it, its last word), the newest first."""
    told = []
    for one in history.attempts:
        after = f" after {lasted(one.seconds)}" if one.seconds else ""
        become = ending(one.code, one is history.attempts[-1])
        told.append((str(one.attempt), f"from step {one.started_step:,}: {become}{after}", one.sentence))
    return told[::-1]


def ending(code: int | None, newest: bool) -> str:
    """How an attempt ended, in words."""
    if code is None:
        return "running" if newest else "killed without a word"
    known = ExitCode(code).name.lower().replace("_", " ") if code in list(ExitCode) else "unknown"
    return f"{known} (code {code})"


def lasted(seconds: float) -> str:
    """41 s, 12 min, 5 h 12 min, 6 d 4 h; - for what is no time."""
    if not 0 <= seconds < 1e12:
        return "-"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 100 else f"{hours // 24:,} d {hours % 24} h"


def fields(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """A section's fields by their whole names, as `--set train.NAME=VALUE` takes them."""
    if not isinstance(value, dict) or not value:
        yield name, cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    elif depth < 8:  # no config is deeper
        for key, inner in value.items():
            yield from fields(inner, f"{name}.{key}" if name else str(key), depth + 1)


def versions() -> Iterator[tuple[str, str]]:
    """Of the environment that this runs in."""
    yield "python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def path(points: list[tuple[float, float]]) -> str:
    """An SVG path through the points on an area of 1000 x 1000."""
    return "M" + "L".join(f"{1000 * x:.1f},{1000 - 1000 * y:.1f}" for x, y in points)
