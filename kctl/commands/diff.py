"""kctl diff CONFIG: what the run that is there has otherwise than its config renders today. Changes nothing."""

import typer

from kctl import console
from kctl.backends import open_backend
from kctl.backends.protocol import Backend
from kctl.backends.run_view import run_view
from kctl.manifest import Manifest
from kctl.manifest.differences import Difference, of_a_live_run
from kctl.run.find import listed
from kctl.run.options import (
    ConfigArgument,
    ContextOption,
    LocalOption,
    NamespaceOption,
    Output,
    OutputOption,
    SetOption,
    where_flags,
)
from kctl.run.page import KIND, structured
from trainer.schema.contract import LABEL_CONFIG


def diff(
    config: ConfigArgument,
    sets: SetOption = None,
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Compare a config with its run as it is there, else with the newest run of its name. 1: they differ.

    \b
    Examples:
      kctl diff lora_di3
      kctl diff lora_di3 --set train.lora.rank=32 -o json
    """
    from kctl.config.run_config import load
    from kctl.manifest.render import render

    loaded = load(config, sets or [])
    rendered = render(loaded.config, loaded.profile, namespace)
    backend, flags = open_backend(local, namespace, context, loaded.profile), where_flags(local, namespace, context)
    job = backend.get_job(rendered.run) or _newest(backend, loaded.config.name)
    if job is None:
        console.say(f"run {rendered.run} is not there, nor another of its name; kctl submit {config}{flags} creates it")
        _print(rendered.run, None, [], output)
        raise typer.Exit(1)
    there = str(job["metadata"]["name"])
    found = of_a_live_run([*filter(None, [backend.get_config_map(job)]), job], rendered.manifests)
    _print(rendered.run, there, found, output)
    phase = run_view(job, backend.list_pods(there)).phase
    if there != rendered.run:
        console.say(f"config {config} is run {rendered.run} today, which is not there; compared with {there} ({phase})")
    elif not found:
        console.say(f"run {there} ({phase}) is as {config} renders it")
        return
    else:
        console.say(f"run {there} is {phase}; what a submit would do: kctl submit {config}{flags} --dry-run=server")
    raise typer.Exit(1)


def _newest(backend: Backend, name: str) -> Manifest | None:
    jobs = [job for job in listed(backend) if (job["metadata"].get("labels") or {}).get(LABEL_CONFIG) == name]
    return jobs[-1] if jobs else None


def _print(run: str, there: str | None, found: list[Difference], output: Output) -> None:
    if output is Output.NAME:
        if there is not None:
            console.data(f"{KIND}/{there}")
    elif output is not Output.TABLE:
        fields = [dict(zip(("field", "there", "config"), one.columns, strict=True)) for one in found]
        console.data(structured({"run": run, "there": there, "differences": fields}, output))
    elif found:
        console.table(("FIELD", "THERE", "CONFIG"), [one.columns for one in found])
