"""kctl adapters: what the runs made, by its manifests. Pulling, merging and generating are a run's verbs, here too."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Annotated

import typer

from kctl import console
from kctl.backends.protocol import Backend, RunFiles
from kctl.backends.run_view import tags_of
from kctl.backends.times import timestamp
from kctl.commands.generate import generate
from kctl.commands.merge import merge
from kctl.commands.pull import pull
from kctl.errors import Damaged, NotFound, UsageError
from kctl.manifest.differences import differences
from kctl.run import names
from kctl.run.find import backend_of, listed, located, several
from kctl.run.folder import AdapterView, folder_of, read_adapter, read_train
from kctl.run.options import (
    ContextOption,
    LocalOption,
    NamespaceOption,
    Output,
    OutputOption,
    RunArgument,
    where_flags,
)
from kctl.run.page import loss_of, size_of, structured
from trainer.schema.contract import TAG_PREFIX

adapters = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, show and compare the adapters that the runs made. kctl pull, merge and generate work behind it, too.",
)
for verb in (pull, merge, generate):
    adapters.command(hidden=True)(verb)  # their one chapter is that of the verb itself

_TAG = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
"""As the name of an annotation may be, in lower case."""


def _tag(name: str) -> str:
    if name == "latest" or not _TAG.fullmatch(name):
        raise UsageError(
            f"{name[:70]!r} is no tag: use at most 63 lower-case letters, digits, ., _ and -, and not latest, which is "
            "the newest run's"
        )
    return name


TagArgument = Annotated[str, typer.Argument(metavar="TAG", callback=_tag, help="E.g. production, without an @.")]

_SHORT = 12
"""Digits of a digest in a table; -o json has all."""


@adapters.command("list")
def list_adapters(
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """List each run's best adapter: base model, rank, data, held-out loss, size and sha256.

    \b
    Examples:
      kctl adapters list
      kctl adapters list --local -o json
    """
    backend = backend_of("", local, namespace, context)
    jobs = listed(backend)
    if not jobs and output is Output.TABLE:
        console.say(f"no runs {backend.where}")
        return
    tags = {job["metadata"]["name"]: tags_of(job) for job in jobs}
    with backend.folders(jobs) as folders:
        views = [replace(view, tags=tuple(tags[view.run])) for view in _read(folders)]
    if output is Output.NAME:
        if views:
            console.data("\n".join(view.run for view in views))
    elif output is not Output.TABLE:
        console.data(structured([asdict(view) for view in views], output))
    elif views:
        console.table(("RUN", "BASE", "RANK", "DATA", "LOSS", "SIZE", "SHA256", "TAGS"), [_row(view) for view in views])
    if len(views) < len(jobs) and output is Output.TABLE:
        console.say(f"no adapter yet: {len(jobs) - len(views)} of {len(jobs)} runs")


@adapters.command()
def show(
    run: RunArgument,
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show one run's best adapter: what it is of, every file with its sha256, and the next commands.

    \b
    Examples:
      kctl adapters show lora_di3
      kctl adapters show @production -o yaml
    """
    backend, name = located(run, local, namespace, context)
    with backend.files(name) as files:
        view = read_adapter(files, name)
    if view is None:
        raise NotFound(
            f"run {name} has no adapter yet: it writes one at its first evaluation or its end; see kctl status"
        )
    if output is Output.NAME:
        console.data(name)
    elif output is not Output.TABLE:
        console.data(structured(asdict(view), output))
    else:
        rows = [*_facts(view), *(("File", f"{one.name}  {size_of(one.size)}  {one.sha256}") for one in view.files)]
        flags = where_flags(local, namespace, context)
        rows += [("Next", f"kctl {verb} {name}{flags}") for verb in ("pull", "merge", "report")]
        console.data("\n".join(f"{label + ':':<10} {console.printable(text)}" for label, text in rows))


@adapters.command()
def tag(
    run: RunArgument,
    name: TagArgument,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Give a run a tag, for kctl pull @TAG and the like; another run loses it. It goes with the run's job.

    \b
    Examples:
      kctl adapters tag lora_di3 production
      kctl adapters tag @latest candidate
    """
    backend, chosen = located(run, local, namespace, context)
    before = [other for other in _tagged(backend, name) if other != chosen]
    backend.annotate(chosen, {f"{TAG_PREFIX}{name}": timestamp()})
    for other in before:
        backend.annotate(other, {f"{TAG_PREFIX}{name}": None})
        console.say(f"{other} was @{name} before")
    names.remember_one(backend.where, f"@{name}")
    console.data(f"@{name} is {chosen}")


@adapters.command()
def untag(
    name: TagArgument,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Take a tag from the run that has it.

    \b
    Examples:
      kctl adapters untag production
      kctl adapters untag candidate --local
    """
    backend = backend_of("", local, namespace, context)
    tagged = _tagged(backend, name)
    if not tagged:
        raise NotFound(f"no run has the tag {name!r}; see kctl adapters list{where_flags(local, namespace, context)}")
    names.forget(backend.where, f"@{name}")
    for run in tagged:
        backend.annotate(run, {f"{TAG_PREFIX}{name}": None})
        console.data(f"{run} is no longer @{name}")


@adapters.command()
def diff(
    a: RunArgument,
    b: RunArgument,
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show what two runs' configs and adapters have otherwise: fields of `train`, base model, data, loss, files.

    \b
    Examples:
      kctl adapters diff lora_di3 lora_di5
      kctl adapters diff @production @latest -o json
    """
    backend, jobs = several([a, b], local, namespace, context)
    names = [job["metadata"]["name"] for job in jobs]
    with backend.folders(jobs) as folders:
        views = [read_adapter(folder_of(folders, name), name) for name in names]
        trains = [read_train(folder_of(folders, name)) for name in names]
    found = [one.columns for one in differences(trains[0], trains[1], "train")]
    facts = [dict(_facts(view)) if view else {} for view in views]
    for label in {**facts[0], **facts[1]}:
        values = [each.get(label, "-") for each in facts]
        if label != "Run" and values[0] != values[1]:
            found.append((f"adapter.{label.lower()}", values[0], values[1]))
    if output is Output.NAME:
        console.data("\n".join(names))
    elif output is Output.TABLE:
        console.table(("FIELD", *names), found)
    else:
        console.data(structured([dict(zip(("field", *names), row, strict=True)) for row in found], output))
    digests = [view.data_digest if view else None for view in views]
    if None not in digests and digests[0] != digests[1]:
        console.say("they were trained on different items: their held-out losses are not of the same ones")


def _tagged(backend: Backend, name: str) -> list[str]:
    return [job["metadata"]["name"] for job in listed(backend) if name in tags_of(job)]


def _read(folders: Mapping[str, RunFiles]) -> list[AdapterView]:
    """The adapters of the runs that have one; eight at a time, since each is a few small files from far away."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = pool.map(_read_one, folders, folders.values())
        return [view for view in found if view is not None]


def _read_one(run: str, files: RunFiles) -> AdapterView | None:
    try:
        return read_adapter(files, run)
    except Damaged as error:  # of one run: the others are shown all the same
        console.warn(str(error))
        return None


def _row(view: AdapterView) -> tuple[str, ...]:
    of = (view.run, view.base or "-", _rank(view), _short(view.data_digest))
    return *of, loss_of(view.loss), size_of(view.size), _short(view.sha256), ", ".join(view.tags) or "-"


def _facts(view: AdapterView) -> list[tuple[str, str]]:
    """What a person asks of an adapter, by the words that are shown."""
    return [
        ("Run", view.run),
        ("Base", f"{view.base or '-'}  ({view.base_digest or '-'})"),
        ("Method", view.method or "-"),
        ("Rank", _rank(view)),
        ("Data", f"{view.data or '-'}  ({view.data_digest or '-'})"),
        ("Step", "-" if view.step is None else str(view.step)),
        ("Loss", loss_of(view.loss)),
        ("Size", size_of(view.size)),
        ("sha256", view.sha256),
    ]


def _rank(view: AdapterView) -> str:
    if view.rank is None:
        return "-" if view.method in (None, "lora") else str(view.method)
    return f"{view.rank}/{view.expert_rank}" if view.expert_rank else str(view.rank)


def _short(digest: str | None) -> str:
    return digest[:_SHORT] if digest else "-"
