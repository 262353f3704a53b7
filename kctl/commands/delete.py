"""kctl delete RUN: remove an ended run's objects; what it wrote only with --outputs."""

from typing import Annotated

import typer

from kctl import console
from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView
from kctl.errors import Refused
from kctl.run import names
from kctl.run.find import located, view_of
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument, YesOption, where_flags
from kctl.run.page import KIND
from kctl.run.settle import BEYOND_GRACE

OutputsOption = Annotated[
    bool, typer.Option("--outputs", help="Also its folder on the runs volume: checkpoints, logs, adapters.")
]


def delete(
    run: RunArgument,
    outputs: OutputsOption = False,
    yes: YesOption = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Delete an ended run. A later submit of its config finds its outputs where they are.

    \b
    Examples:
      kctl delete lora-di3-1e61e6eb
      kctl delete lora_di3 --outputs --yes
    """
    backend, name = located(run, local, namespace, context)
    view = view_of(backend, name)
    if not view.settled:
        flags = where_flags(local, namespace, context)
        raise Refused(f"run {name} is active ({view.phase}); first: kctl cancel {name}{flags}")
    if outputs:
        console.confirm(f"delete run {name} and all it wrote on the runs volume?", yes)
    remove(backend, view, outputs)


def remove(backend: Backend, view: RunView, outputs: bool) -> None:
    """The run's objects, after its outputs where those are wanted gone, too."""
    if outputs:
        backend.erase(view.run)
    backend.delete(view.run, view.grace_seconds + BEYOND_GRACE, view.uid)
    backend.forget(view.run)
    names.forget(backend.where, view.run)
    console.data(f"{KIND}/{view.run} deleted" + (" with its outputs" if outputs else ""))
