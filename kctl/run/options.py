"""Arguments that the run verbs share, spelled once, as kubectl spells them."""

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """-o, as kubectl has it."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name, a unique prefix of it, a config's name, or @latest.")
]
LocalOption = Annotated[bool, typer.Option("--local", help="Runs on this machine instead of a cluster.")]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace; wins over the profile's.")]
ContextOption = Annotated[str | None, typer.Option("--context", help="Kube context; wins over the profile's.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Format of what is printed on stdout.")]


def where_flags(local: bool, namespace: str | None, context: str | None) -> str:
    """What a next command needs to mean the same place, with a leading space; empty where nothing was given."""
    if local:
        return " --local"
    return (f" -n {namespace}" if namespace else "") + (f" --context {context}" if context else "")
