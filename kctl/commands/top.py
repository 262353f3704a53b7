"""kctl top: a live screen of all runs, or of those named."""

from typing import Annotated

import typer

from kctl import console
from kctl.run.find import backend_of, find_run
from kctl.run.gauges import Gauges
from kctl.run.live import all_settled, screens, watch
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, where_flags
from kctl.run.screen import table


def top(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="Only these; without one, all that are active.")
    ] = None,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Watch runs: progress, time left, loss and its trend, speed, memory, attempt. Ctrl-C leaves them as they are.

    In a pipe or a file: a line for each change, until all have ended.

    \b
    Examples:
      kctl top
      kctl top lora_di3 full_di3 -n research
    """
    backend = backend_of(runs[0] if runs else "", local, namespace, context)
    flags = where_flags(local, namespace, context)
    names = []
    for text in runs or []:
        run, note = find_run(backend, text, local)
        names.append(run)
        if note:
            console.say(note)
    gauges = Gauges(backend, list(dict.fromkeys(names)))
    found = watch(
        gauges.look,
        lambda rows, size: table(rows, backend.where, backend.now(), size),
        # On a screen more runs may come; in a pipe nobody can say that it is enough.
        lambda rows: all_settled(rows) and not (screens() and not names),
        backend.now,
        f"kctl top{''.join(f' {name}' for name in names)}{flags}",
    )
    if not found:
        console.say(f"no active runs {backend.where}; those that have ended: kctl list{flags}")
