"""kctl wait RUN: until it has ended; the exit code says how."""

from typing import Annotated

import typer

from kctl import console
from kctl.run.find import located
from kctl.run.follow import detachable
from kctl.run.logs import parse_duration
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument, where_flags
from kctl.run.page import ended_well
from kctl.run.settle import until_settled


def wait(
    run: RunArgument,
    timeout: Annotated[str | None, typer.Option("--timeout", help="Give up after this long, e.g. 90s or 2h.")] = None,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Wait for the end: 0 it succeeded, 3 it failed or was cancelled, 7 it goes on after --timeout.

    \b
    Examples:
      kctl wait lora_di3
      kctl wait @latest --timeout 2h
    """
    limit = None if timeout is None else parse_duration(timeout, "--timeout")
    backend, name = located(run, local, namespace, context)
    flags = where_flags(local, namespace, context)
    with detachable(name, flags):
        view = until_settled(backend, name, limit, flags)
    console.say(ended_well(view, flags))
