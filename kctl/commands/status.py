"""kctl status RUN: where a run is, from its job, its pods and its newest log line."""

from typing import Annotated

import typer

from kctl import console
from kctl.errors import UsageError
from kctl.run.find import gone, located, view_of
from kctl.run.gauges import Gauges
from kctl.run.live import all_settled, screens, watch
from kctl.run.logs import with_progress
from kctl.run.options import (
    ContextOption,
    LocalOption,
    NamespaceOption,
    Output,
    OutputOption,
    RunArgument,
    where_flags,
)
from kctl.run.page import status_page
from kctl.run.screen import page


def status(
    run: RunArgument,
    live: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it live until it has ended; in a pipe a line for each change.")
    ] = False,
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show phase, step, loss, time left, pods and the next command.

    \b
    Examples:
      kctl status lora_di3
      kctl status @latest --watch
    """
    if live and output is not Output.TABLE:
        raise UsageError(f"--watch -o {output}: a live screen has no such format; for scripts there is kctl wait")
    backend, name = located(run, local, namespace, context)
    flags = where_flags(local, namespace, context)
    if not live:
        view = with_progress(backend, view_of(backend, name))
        console.data(status_page(view, flags, output, backend.now()))
        return
    found = watch(
        Gauges(backend, [name]).look,
        lambda gauges, size: page(gauges[0], flags, backend.now(), size) if gauges else "",
        all_settled,
        backend.now,
        f"kctl status -w {name}{flags}",
    )
    if not found:
        raise gone(name)
    if not screens():
        console.data(status_page(found[0].view, flags, output, backend.now()))
