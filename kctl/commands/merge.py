"""kctl merge RUN: its adapter and base model as one model, on the runs volume."""

from typing import Annotated

import typer

from kctl import console
from kctl.backends.protocol import Work
from kctl.run.find import located
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument, where_flags
from kctl.run.work import watched


def merge(
    run: RunArgument,
    last: Annotated[bool, typer.Option("--last", help="The newest adapter instead of the best.")] = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Add what was trained to the base model's weights; run again after a stop, it goes on.

    \b
    Examples:
      kctl merge lora_di3
      kctl merge @latest --last
    """
    backend, name = located(run, local, namespace, context)
    flag, flags = " --last" if last else "", where_flags(local, namespace, context)
    work = Work("merge", "trainer.merge", (name, "--last") if last else (name,))
    watched(backend.work(name, work), f"kctl merge {name}{flag}{flags}", local)
    console.say(f"bring it home: kctl pull {name} --merged{flag}{flags}")
