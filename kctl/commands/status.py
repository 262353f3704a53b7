"""kctl status RUN: where a run is, from its job, its pods and its newest log line."""

from kctl import console
from kctl.run.find import located, view_of
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


def status(
    run: RunArgument,
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show phase, step, loss, time left, pods and the next command."""
    backend, name = located(run, local, namespace, context)
    view = with_progress(backend, view_of(backend, name))
    console.data(status_page(view, where_flags(local, namespace, context), output, backend.now()))
