"""kctl render: a config as Kubernetes manifests."""

from enum import StrEnum
from pathlib import Path
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
    output: Annotated[Format, typer.Option("--output", "-o", help="How to print.")] = Format.yaml,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Write DIR/RUN.yaml instead of printing.")
    ] = None,
) -> None:
    """Print the manifests of a run. Needs no cluster; equal input gives equal bytes.

    \b
    Examples:
      kctl render lora_di3 --set train.lora.rank=32
      kctl render lora_di3 --to runs/
    """
    from kctl import console
    from kctl.config.run_config import load
    from kctl.manifest.render import render as rendered_of

    loaded = load(config, sets or [])
    rendered = rendered_of(loaded.config, loaded.profile, namespace)
    for warning in rendered.warnings:
        console.warn(warning)
    if to is not None:
        console.data(str(_write_once(to, rendered)))
    else:
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


def _write_once(folder: Path, rendered: "Rendered") -> Path:
    # In a GitOps folder a run may be training from this file: it is written once, and never changed.
    import os
    import tempfile

    from kctl.errors import KctlError
    from kctl.manifest.render import to_yaml

    text, path = to_yaml(rendered.manifests).encode(), folder / f"{rendered.run}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if path.read_bytes() == text:
                return path
            raise KctlError(f"{path}: exists with other content, and a run's file is written once: remove it first")
        handle, beside = tempfile.mkstemp(prefix=f".{rendered.run}.", dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except OSError as error:
        raise KctlError(f"{path}: cannot be written: {error.strerror}") from None
    return path
