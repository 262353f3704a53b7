"""Watching one run to its end: its log lines, on a terminal with a progress bar below them. Ctrl-C only detaches."""

import contextlib
import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from kctl import console
from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView, pods_wanted
from kctl.errors import Refused, Unreachable
from kctl.run.find import view_of
from kctl.run.logs import Begin, LogLine, follow_run
from kctl.run.page import span
from trainer.schema.messages import Step, parse_step_line
from trainer.schema.redaction import line_by_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextlib.contextmanager
def detachable(run: str, flags: str) -> Iterator[None]:
    """Turn Ctrl-C into exit code 130; with it and with a lost cluster comes the command that attaches again."""
    try:
        yield
    except KeyboardInterrupt:
        console.say(f"detached; the run goes on. Attach again: kctl logs -f {run}{flags}")
        raise typer.Exit(130) from None
    except (Unreachable, Refused):
        console.say(f"lost sight of run {run}, which goes on. Attach again: kctl logs -f {run}{flags}")
        raise


def follow_to_end(backend: Backend, run: str, flags: str) -> RunView:
    """Print every line on stdout until the run has settled, and return it as it is then."""
    with detachable(run, flags):
        lines = follow_run(backend, run, lambda pod: True, Begin())
        job = backend.get_job(run)
        several = job is not None and pods_wanted(job) > 1
        if console.draws(sys.stdout):
            _with_bar(lines, run, several)
        else:
            with console.Lines() as out:
                for text in map(printing(run, several, False), lines):
                    out.write(text)
        return view_of(backend, run)


def printing(run: str, prefix: bool, timestamps: bool) -> Callable[[LogLine], str]:
    """What makes of each line, in their order, what `logs` shows: `worker-1 | text` where there are several pods."""
    clean: defaultdict[str, Callable[[str], str]] = defaultdict(line_by_line)

    def printed(line: LogLine) -> str:
        pod = f"{line.pod.removeprefix(run + '-')} | " if prefix else ""
        # Into a file or a pipe as it is, but for credentials; on a terminal nothing that a pod prints may move the
        # cursor.
        text = clean[line.pod](line.text)
        text = console.printable(text) if _terminal() else text
        return f"{line.time + ' ' if timestamps else ''}{pod}{text}"

    return printed


@functools.cache
def _terminal() -> bool:
    return sys.stdout.isatty()


def _with_bar(lines: Iterator[LogLine], run: str, several: bool) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, transient=True) as progress:
        task, printed = progress.add_task(run, total=None, told=""), printing(run, several, False)
        for line in lines:
            progress.console.print(printed(line), markup=False, highlight=False, soft_wrap=True)
            step = parse_step_line(line.text)
            if step is not None:
                _advance(progress, task, step)


def _advance(progress: "Progress", task: "TaskID", step: Step) -> None:
    left = f", {span(step.eta_s)} left" if step.eta_s is not None else ""
    progress.update(task, completed=step.step, total=step.steps, told=f"loss {step.loss:.4f}{left}")
