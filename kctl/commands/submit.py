"""kctl submit CONFIG: render, compare with what is there, create. Never changes a run that exists."""

from enum import StrEnum
from typing import Annotated

import typer

from kctl import console
from kctl.backends import open_backend
from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView
from kctl.errors import AlreadyExists, KctlError, Refused
from kctl.manifest import Manifest, the_job
from kctl.run.find import BEYOND_GRACE, look, until_settled
from kctl.run.follow import detachable, follow_to_end
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
from kctl.run.page import KIND, ended_well, structured
from kctl.run.submit import Decision, decide, manifest_sha256

_TRIES = 5


class DryRun(StrEnum):
    """As kubectl has it."""

    CLIENT = "client"
    SERVER = "server"


def submit(
    config: ConfigArgument,
    sets: SetOption = None,
    local: LocalOption = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then show the log until the end.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Then wait for the end.")] = False,
    dry_run: Annotated[DryRun | None, typer.Option("--dry-run", help="Check, and create nothing.")] = None,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Start a run, or resume one that failed or was cancelled."""
    from kctl.config.run_config import load
    from kctl.manifest.render import render

    loaded = load(config, sets or [])
    rendered = render(loaded.config, loaded.profile, namespace)
    for warning in [] if local else rendered.warnings:
        console.warn(warning)
    if dry_run is DryRun.CLIENT:
        _print(rendered.manifests, output, "created (dry run)")
        return
    backend = open_backend(local, namespace, context, loaded.profile)
    if dry_run is DryRun.SERVER:
        _print(rendered.manifests, output, _dry_run(backend, rendered.manifests))
        return
    flags = where_flags(local, namespace, context)
    decision = start(backend, rendered.manifests, flags, output)
    if decision is not Decision.DONE and (follow or wait):
        console.say(ended_well(_to_end(backend, rendered.run, flags, follow), flags))
    elif decision is not Decision.DONE:
        console.say(f"follow it: kctl logs -f {rendered.run}{flags}")


def start(backend: Backend, manifests: list[Manifest], flags: str, output: Output) -> Decision:
    """Do what `decide` says; looked up again where somebody else was faster. Refused where it says so."""
    job = the_job(manifests)
    run = job["metadata"]["name"]
    for _ in range(_TRIES):
        existing = look(backend, run)
        decision = decide(existing, manifest_sha256(job))
        if decision is Decision.DONE:
            console.say(f"run {run} has succeeded already, nothing to do; kctl pull {run}{flags}")
            return decision
        if decision is Decision.REFUSE:
            raise Refused(f"run {run} is active with another manifest; first: kctl cancel {run}{flags}")
        if decision is Decision.ACTIVE:
            phase = existing.phase if existing else ""
            console.say(f"run {run} is already active ({phase}), nothing to do")
            return decision
        if existing is not None:
            console.say(f"run {run} has ended ({existing.phase}): it is created again and resumes")
            backend.delete(run, existing.grace_seconds + BEYOND_GRACE, existing.uid)
        try:
            backend.create(manifests)
        except AlreadyExists:
            continue
        _print(manifests, output, "created")
        return decision
    raise KctlError(f"run {run}: others create and delete it at this moment; look with kctl status {run}{flags}")


def _to_end(backend: Backend, run: str, flags: str, follow: bool) -> RunView:
    if follow:
        return follow_to_end(backend, run, flags)
    with detachable(run, flags):
        return until_settled(backend, run, None, flags)


def _dry_run(backend: Backend, manifests: list[Manifest]) -> str:
    job = the_job(manifests)
    decision = decide(look(backend, job["metadata"]["name"]), manifest_sha256(job))
    if decision is Decision.CREATE:
        backend.create(manifests, dry_run=True)
    words = {
        Decision.CREATE: "created",
        Decision.RECREATE: "deleted and created again",
        Decision.ACTIVE: "unchanged: it is active",
        Decision.REFUSE: "refused: it is active with another manifest",
        Decision.DONE: "unchanged: it has succeeded",
    }
    return f"{words[decision]} (server dry run)"


def _print(manifests: list[Manifest], output: Output, what: str) -> None:
    run = the_job(manifests)["metadata"]["name"]
    if output is Output.TABLE:
        console.data(f"{KIND}/{run} {what}")
    elif output is Output.NAME:
        console.data(f"{KIND}/{run}")
    else:
        console.data(structured({"apiVersion": "v1", "kind": "List", "items": manifests}, output))
