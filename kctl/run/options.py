"""Arguments that several verbs share, spelled once, as kubectl spells them."""

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """-o, as kubectl has it."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def _namespace(name: str | None) -> str | None:
    from pydantic import TypeAdapter, ValidationError

    from kctl.config.kubernetes_names import Label
    from kctl.errors import UsageError

    try:
        return None if name is None else TypeAdapter(Label).validate_python(name)
    except ValidationError as error:
        raise UsageError(f"--namespace: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A config's name, or the path of a YAML file.")]
ConfigsArgument = Annotated[
    list[str], typer.Argument(metavar="CONFIG...", help="Configs' names, or paths of YAML files.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override one field; may be repeated.")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name, a unique prefix of it, a config's name, @latest, or @TAG.")
]
LocalOption = Annotated[bool, typer.Option("--local", help="Runs on this machine instead of a cluster.")]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", callback=_namespace, help="Namespace; wins over the profile's."),
]
ContextOption = Annotated[str | None, typer.Option("--context", help="Kube context; wins over the profile's.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Format of what is printed on stdout.")]


def where_flags(local: bool, namespace: str | None, context: str | None) -> str:
    """What a next command needs to mean the same place, with a leading space; empty where nothing was given."""
    if local:
        return " --local"
    return (f" -n {namespace}" if namespace else "") + (f" --context {context}" if context else "")
