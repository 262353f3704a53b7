"""kctl report RUN: its report, saved here and opened in a browser."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kctl import console
from kctl.run.find import located
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument
from kctl.run.report import harmless, pull_report


def report(
    run: RunArgument,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Save it as DIR/RUN.html, and do not open it.")
    ] = None,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Save the run's report as adapters/RUN.html, as pull does, and open it where there is a terminal and a browser.

    A run that trains has one, and so has one that failed.

    \b
    Examples:
      kctl report lora_di3
      kctl report @latest --to reports
    """
    backend, name = located(run, local, namespace, context)
    page = (to or Path("adapters")) / f"{name}.html"
    with backend.files(name) as files:
        pull_report(files, page)
    console.data(str(page))
    if to is None and sys.stdout.isatty():
        _open(page)


def _open(page: Path) -> None:
    import webbrowser

    if not harmless(page):
        console.warn("not opened: it does not begin as a run's report does, and a browser would run what is in it")
    elif not webbrowser.open(page.resolve().as_uri()):
        console.say("no browser was found here: open the file by hand")
