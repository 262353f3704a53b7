"""kctl render: a config as Kubernetes manifests."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from kctl.run.options import ConfigArgument, NamespaceOption, SetOption

if TYPE_CHECKING:
    from kctl.manifest.render import Rendered


class Format(StrEnum):
    yaml = "yaml"
    json = "json"
    name = "name"


def render(
    config: ConfigArgument,
    sets: SetOption = None,
    namespace: NamespaceOption = None,
    output: Annotated[
        Format, typer.Option("--output", "-o", help="Format of what is printed on stdout.")
    ] = Format.yaml,
) -> None:
    """Print the manifests of a run. Needs no cluster; equal input gives equal bytes.

    \b
    Examples:
      kctl render lora_di3 --set train.lora.rank=32
      kctl render lora_di3 -o json > run.json
    """
    from kctl import console
    from kctl.config.run_config import load
    from kctl.manifest.render import render as rendered_of

    loaded = load(config, sets or [])
    rendered = rendered_of(loaded.config, loaded.profile, namespace)
    for warning in rendered.warnings:
        console.warn(warning)
    console.data(_text(rendered, output))


def _text(rendered: "Rendered", output: Format) -> str:
    import json

    from kctl.manifest.render import to_yaml
    from kctl.run.page import KIND

    if output is Format.yaml:
        return to_yaml(rendered.manifests)
    if output is Format.json:
        listed = {"apiVersion": "v1", "kind": "List", "items": rendered.manifests}
        return json.dumps(listed, indent=2, ensure_ascii=False)
    kinds = {"ConfigMap": "configmap", "PyTorchJob": KIND}
    return "\n".join(f"{kinds[item['kind']]}/{item['metadata']['name']}" for item in rendered.manifests)
