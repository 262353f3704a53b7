"""kctl submit CONFIG: render, compare with what is there, create. Never changes a run that exists."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from kctl import console
from kctl.backends import open_backend
from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView
from kctl.errors import RunFailed, UsageError
from kctl.manifest import Manifest, the_job
from kctl.run.follow import detachable, follow_to_end
from kctl.run.matrix import Line, Outcome, Variant, shown, start_all, variants
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
from kctl.run.page import KIND, ended_well, loss_text, step_text, structured
from kctl.run.settle import until_settled
from kctl.run.start import dry_run as dry_run_of
from kctl.run.start import start
from kctl.run.submit import Decision


class DryRun(StrEnum):
    """As kubectl has it."""

    CLIENT = "client"
    SERVER = "server"


def submit(
    config: ConfigArgument,
    sets: SetOption = None,
    matrix: Annotated[
        list[str] | None,
        typer.Option("--matrix", metavar="PATH=A,B,...", help="A run for each value; repeated: for each combination."),
    ] = None,
    max_parallel: Annotated[
        int | None,
        typer.Option("--max-parallel", min=1, help="Of a matrix: start the next run when one has ended, to the end."),
    ] = None,
    local: LocalOption = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then show the log until the end.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Then wait for the end.")] = False,
    dry_run: Annotated[DryRun | None, typer.Option("--dry-run", help="Check, and create nothing.")] = None,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Start a run, or resume one that failed or was cancelled.

    \b
    Examples:
      kctl submit lora_di3 --follow
      kctl submit lora_di3 --set train.lora.rank=32 --dry-run server
      kctl submit lora_di3 --matrix train.lora.rank=32,64,128 --max-parallel 1
    """
    from kctl.config.run_config import load
    from kctl.manifest.render import render

    flags = where_flags(local, namespace, context)
    if matrix:
        if follow:
            raise UsageError("--matrix --follow: of several runs there is no one log; take --wait, and kctl top beside")
        chosen = variants(config, sets or [], matrix, namespace)
        _warn(list(dict.fromkeys(text for one in chosen for text in one.rendered.warnings)), local)
        backend = open_backend(local, namespace, context, chosen[0].loaded.profile)
        _several(backend, chosen, max_parallel or (len(chosen) if wait else None), dry_run, output, flags)
        return
    if max_parallel is not None:
        raise UsageError("--max-parallel: is for the runs of a matrix: add --matrix PATH=A,B,...")
    loaded = load(config, sets or [])
    rendered = render(loaded.config, loaded.profile, namespace)
    _warn(rendered.warnings, local)
    if dry_run is DryRun.CLIENT:
        _print(rendered.manifests, output, "created (dry run)")
        return
    backend = open_backend(local, namespace, context, loaded.profile)
    if dry_run is DryRun.SERVER:
        _print(rendered.manifests, output, dry_run_of(backend, rendered.manifests))
        return
    decision = start(backend, rendered.manifests, flags)
    if decision in (Decision.CREATE, Decision.RECREATE):
        _print(rendered.manifests, output, "created")
    if decision is not Decision.DONE and (follow or wait):
        console.say(ended_well(_to_end(backend, rendered.run, flags, follow), flags))
    elif decision is not Decision.DONE:
        console.say(f"follow it: kctl logs -f {rendered.run}{flags}")


def _several(
    backend: Backend, chosen: Sequence[Variant], at_once: int | None, dry_run: DryRun | None, output: Output, flags: str
) -> None:
    """The runs of a matrix: shown, started, or, where `at_once` is said, seen to their end."""
    if dry_run is not None:
        _print_dry(chosen, output, None if dry_run is DryRun.CLIENT else backend)
    elif at_once is None:
        _start_all(backend, chosen, output, flags)
    else:
        _to_their_end(Line(backend, chosen, at_once, flags), output)


def _to_end(backend: Backend, run: str, flags: str, follow: bool) -> RunView:
    if follow:
        return follow_to_end(backend, run, flags)
    with detachable(run, flags):
        return until_settled(backend, run, None, flags)


def _print(manifests: list[Manifest], output: Output, what: str) -> None:
    run = the_job(manifests)["metadata"]["name"]
    if output is Output.TABLE:
        console.data(f"{KIND}/{run} {what}")
    elif output is Output.NAME:
        console.data(f"{KIND}/{run}")
    else:
        console.data(structured({"apiVersion": "v1", "kind": "List", "items": manifests}, output))


def _warn(warnings: Sequence[str], local: bool) -> None:
    for warning in () if local else warnings:
        console.warn(warning)


def _print_dry(chosen: Sequence[Variant], output: Output, server: Backend | None) -> None:
    said = ["created (dry run)" if server is None else dry_run_of(server, one.manifests) for one in chosen]
    _print_several(chosen, output, ("RESULT",), [(words,) for words in said])


_RESULTS = {
    Decision.CREATE: "created",
    Decision.RECREATE: "created again, resumes",
    Decision.ACTIVE: "unchanged: it is active",
    Decision.DONE: "unchanged: it has succeeded",
}


def _start_all(backend: Backend, chosen: Sequence[Variant], output: Output, flags: str) -> None:
    """Each is started, whatever comes of the others; the exit code is that of the first error."""
    outcomes: list[Outcome] = []
    try:
        for outcome in start_all(backend, chosen, flags):
            outcomes.append(outcome)
    finally:
        rows = [(_RESULTS[one.decision] if one.decision else "not submitted",) for one in outcomes]
        _print_several([one.variant for one in outcomes], output, ("RESULT",), rows)
    errors = [one.error for one in outcomes if one.error]
    for error in errors:
        console.error(str(error))
    console.say(f"follow them: kctl top{flags}")
    if errors:
        raise typer.Exit(errors[0].exit_code)


def _to_their_end(line: Line, output: Output) -> None:
    """Until the last has ended. RunFailed where one did not succeed; Ctrl-C leaves them all as they are."""
    try:
        outcomes = line.to_end()
    except KeyboardInterrupt:
        left = f"; {len(line.waiting)} are not submitted yet" if line.waiting else ""
        console.say(f"detached; {len(line.active)} runs go on{left}. The same command again goes on from here")
        raise typer.Exit(130) from None
    rows = [
        (str(one.view.phase), step_text(one.view), loss_text(one.view)) if one.view else ("not run", "-", "-")
        for one in outcomes
    ]
    _print_several([one.variant for one in outcomes], output, ("PHASE", "STEP", "LOSS"), rows)
    bad = [one.variant.run for one in outcomes if one.failed or one.error]
    if bad:
        raise RunFailed(
            f"{len(bad)} of {len(outcomes)} runs did not succeed: {', '.join(bad)}; see kctl status RUN, "
            "and the same command again tries them alone once more"
        )


def _print_several(
    chosen: Sequence[Variant], output: Output, headers: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """One table of the runs: what makes them differ, and of each what `rows` says."""
    if output is Output.NAME:
        console.data("\n".join(f"{KIND}/{one.run}" for one in chosen))
    elif output is not Output.TABLE:
        items = [manifest for one in chosen for manifest in one.manifests]
        console.data(structured({"apiVersion": "v1", "kind": "List", "items": items}, output))
    elif chosen:
        paths = [path for path, _ in chosen[0].fields]
        ends = [path.rpartition(".")[2] for path in paths]
        names = [end if ends.count(end) == 1 else path for end, path in zip(ends, paths, strict=True)]
        table = [
            (one.run, *(shown(value) for _, value in one.fields), *row) for one, row in zip(chosen, rows, strict=True)
        ]
        console.table(("RUN", *(name.upper() for name in names), *headers), table)
