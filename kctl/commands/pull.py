"""kctl pull RUN: its adapter, checked, into a folder here, and its report beside it."""

from pathlib import Path
from typing import Annotated

import typer

from kctl import console
from kctl.errors import KctlError, NotFound, UsageError
from kctl.run.find import located
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument, where_flags
from kctl.run.page import size_of
from kctl.run.pull import pull as pull_adapter
from kctl.run.report import pull_report
from trainer.schema.contract import RunFolder


def pull(
    run: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Goes to DIR/RUN.")] = Path("adapters"),
    last: Annotated[
        bool, typer.Option("--last", help="The newest adapter instead of the best, to DIR/RUN-last.")
    ] = False,
    merged: Annotated[
        bool, typer.Option("--merged", help="The model that kctl merge made, to DIR/RUN-merged.")
    ] = False,
    exported: Annotated[
        bool, typer.Option("--exported", help="The adapter that kctl export made, to DIR/RUN-exported.")
    ] = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Bring the adapter home, its report beside it; run again after a cut, it goes on where it stopped.

    \b
    Examples:
      kctl pull lora_di3
      kctl pull @production --to adapters/production
    """
    backend, name = located(run, local, namespace, context)
    page = to / f"{name}.html"
    folder = RunFolder(Path())
    if merged and exported:
        raise UsageError("--merged --exported: name one of them, and pull again for the other")
    kind = folder.merged if merged else folder.exported if exported else folder.adapter
    ending = "-last" if last else ""
    source = f"{kind.name}{ending}"
    target = to / f"{name}{'' if kind == folder.adapter else f'-{kind.name}'}{ending}"
    try:
        with backend.files(name) as files, console.progress(name) as progress:
            pulled = pull_adapter(files, source, target, progress)
            try:
                pull_report(files, page)
                console.say(f"report: {page}")
            except NotFound:  # of a trainer that wrote none
                pass
            except KctlError as error:  # the adapter is there
                console.say(f"no report: {error}")
    except KeyboardInterrupt:
        flags = where_flags(local, namespace, context)
        console.say(f"stopped; kctl pull {name}{flags} goes on from here")
        raise typer.Exit(130) from None
    what = f"{pulled.files} files, {size_of(pulled.size)}"
    console.say(f"{what}, sha256 checked" if pulled.fresh else f"already there: {what}, sha256 checked")
    console.data(str(pulled.folder))
