"""kctl prune: remove the objects of all runs that ended some time ago."""

from datetime import datetime
from typing import Annotated

import typer

from kctl import console
from kctl.backends.run_view import RunView
from kctl.commands.delete import OutputsOption, remove
from kctl.run.find import all_viewed, backend_of
from kctl.run.logs import parse_duration
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, Output, YesOption
from kctl.run.page import print_list


def prune(
    older_than: Annotated[str, typer.Option("--older-than", help="Ended this long ago, e.g. 12h or 7d.")] = "0s",
    outputs: OutputsOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List them, and delete nothing.")] = False,
    yes: YesOption = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Delete all ended runs; what they wrote only with --outputs.

    \b
    Examples:
      kctl prune --older-than 7d --dry-run
      kctl prune --older-than 30d --outputs --yes
    """
    seconds = parse_duration(older_than, "--older-than")
    backend = backend_of("", local, namespace, context)
    views = all_viewed(backend)
    ended = [view for view in views if _ended_before(view, seconds, backend.now())]
    if not ended:
        console.say(f"no runs {backend.where} have ended that long ago")
        return
    print_list(ended, Output.TABLE, backend.now())
    if dry_run:
        return
    what = "and all they wrote on the runs volume" if outputs else "(what they wrote stays on the runs volume)"
    console.confirm(f"delete these {len(ended)} runs {what}?", yes)
    for view in ended:
        remove(backend, view, outputs)


def _ended_before(view: RunView, seconds: float, now: datetime) -> bool:
    if not view.settled:
        return False
    moment = datetime.fromisoformat(view.ended or view.created)
    return (now - moment).total_seconds() >= seconds
