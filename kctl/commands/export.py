"""kctl export RUN: its adapter as plain linear layers, on the runs volume."""

from typing import Annotated

import typer

from kctl import console
from kctl.backends.protocol import Work
from kctl.run.find import located
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument, where_flags
from kctl.run.work import watched


def export(
    run: RunArgument,
    last: Annotated[bool, typer.Option("--last", help="The newest adapter instead of the best.")] = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Write a mixture's adapter as vLLM and older PEFT read it, and compare both forms.

    \b
    Examples:
      kctl export lora_di3
      kctl export @latest --last
    """
    backend, name = located(run, local, namespace, context)
    flag, flags = " --last" if last else "", where_flags(local, namespace, context)
    work = Work("export", "trainer.export", (name, "--last") if last else (name,))
    watched(backend.work(name, work), f"kctl export {name}{flag}{flags}", local)
    console.say(f"bring it home: kctl pull {name} --exported{flag}{flags}")
