"""kctl data: files of dialogue before they are trained on, on this machine and without a cluster."""

from importlib import import_module

import typer

VERBS = ("stats", "validate", "preview", "sample", "convert")

data = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at, check and change files of training data."
)
for _verb in VERBS:
    data.command(_verb)(getattr(import_module(f"kctl.commands.data.{_verb}"), _verb))
