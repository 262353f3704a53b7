"""kctl gitops: a folder with one file a run, for Argo CD or Flux. Needs no cluster; equal input gives equal bytes."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kctl.run.options import NamespaceOption

if TYPE_CHECKING:
    from kctl.manifest.folder import Entry
    from kctl.manifest.render import Rendered

gitops = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep a folder of runs that Argo CD or Flux watches: one file a run, written once.",
)

FolderOption = Annotated[
    Path, typer.Option("--to", "-o", metavar="DIR", help="The folder with the runs' files and kustomization.yaml.")
]

UPDATED = """{run} is rewritten. What that does once it is committed and brought to the cluster:
  a run that is training: k8s/base refuses the change and the run goes on as it is; without that policy, pods that
    start later have another template than those that run. So first: kctl cancel {run}
  a run that was cancelled or has ended: it stays so, and nothing is trained. To go on with it: kctl delete {run};
    the controller creates it from Git again, and it goes on from its checkpoint
  (Flux with the patch of kctl gitops health leaves a job that exists as it is.)"""
RENAMED = """  Its config has changed, so its ConfigMap has another name, and pruning removes the one before: pods that
    start again would wait for it in vain. Cancel it first, if it is training."""
MOVED = """  It gets another namespace: pruning deletes the job in the one before, and a new one starts, without its
    checkpoints unless both have the same runs volume."""
REMOVED = """{run} is removed. What that does once it is committed and brought to the cluster:
  with prune its job is deleted, also one that is training: its pods save a checkpoint within their grace and end
  without prune nothing changes there: kctl cancel {run}, then kctl delete {run}
  what it wrote to the runs volume stays; rendered again, it goes on from its checkpoint, and trains nothing if done
While a config renders this run, kctl gitops render brings it back."""


@gitops.command()
def render(
    configs: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG...", help="Folders of configs, configs' names, or paths of YAML files."),
    ],
    to: FolderOption,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; list what would differ, and end with 1 where something does."),
    ] = False,
    allow_older: Annotated[
        bool,
        typer.Option("--allow-older", help="With --check: list files from an earlier config or profile, and pass."),
    ] = False,
    update: Annotated[
        list[str] | None, typer.Option("--update", metavar="RUN", help="Rewrite this run's file; may be repeated.")
    ] = None,
    namespace: NamespaceOption = None,
) -> None:
    """Write each run that has no file yet. A file that is there is never changed, but for --update RUN.

    \b
    Examples:
      kctl gitops render configs/ -o runs/
      kctl gitops render configs/ -o runs/ --check
    """
    from kctl import console
    from kctl.errors import UsageError
    from kctl.manifest import folder

    if check and update:
        raise UsageError("--check --update: one writes nothing, the other does: choose one")
    if allow_older and not check:
        raise UsageError("--allow-older belongs to --check: files from earlier configs are left as they are anyway")
    rendered = _rendered(configs, namespace)
    wanted = [folder.chosen(text, rendered, "among these configs") for text in update or []]
    entries = folder.entries_of(to, rendered)
    if check:
        _check(to, entries, allow_older)
        return
    for entry in entries:
        if entry.state is folder.State.NEW or (entry.run in wanted and entry.state is not folder.State.SAME):
            _say_update(entry, rendered[entry.run])
            for warning in rendered[entry.run].warnings:
                console.warn(f"{entry.run}: {warning}")
            path = folder.write_run(to, rendered[entry.run])
            console.data(f"{'added' if entry.state is folder.State.NEW else 'updated'} {path}")
        elif entry.state in (folder.State.OLDER, folder.State.EDITED):
            remedy = f"--update {entry.run} rewrites it" if entry.run in rendered else "take it from Git again"
            console.warn(f"{_about(entry)}; left as it is, {remedy}")
    folder.write_listing(to)
    added = sum(entry.state is folder.State.NEW for entry in entries)
    console.say(f"{to}: {len(entries)} {'run' if len(entries) == 1 else 'runs'}, {added} of them new")


@gitops.command()
def rm(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of the folder: its name, or a unique prefix.")],
    to: FolderOption,
) -> None:
    """Take a run out of the folder; says what that does to a run that is training.

    \b
    Examples:
      kctl gitops rm lora-di3-1e61e6eb -o runs/
      kctl gitops rm lora-di3 --to runs/
    """
    from kctl import console
    from kctl.manifest import folder

    name = folder.chosen(run, folder.runs_in(to), f"in {to}")
    path = folder.remove_run(to, name)
    _say(REMOVED.format(run=name))
    console.data(f"removed {path}")


class Controller(StrEnum):
    """What brings the folder to the cluster."""

    ARGOCD = "argocd"
    FLUX = "flux"


@gitops.command()
def health(
    controller: Annotated[Controller | None, typer.Argument(help="Only this one's.")] = None,
    until_the_end: Annotated[
        bool,
        typer.Option("--until-the-end", help="Argo CD: Progressing until a run has ended, not healthy once it runs."),
    ] = False,
) -> None:
    """Print what tells Argo CD and Flux how a PyTorchJob is, and what is no drift in one.

    \b
    Examples:
      kctl gitops health argocd | kubectl apply --server-side -f -
      kctl gitops health flux
    """
    from kctl import console
    from kctl.errors import UsageError
    from kctl.manifest.controllers import argocd, flux

    if until_the_end and controller is Controller.FLUX:
        raise UsageError("--until-the-end is Argo CD's: Flux's expressions are for a Kustomization that settles")
    parts = [] if controller is Controller.FLUX else [argocd(until_the_end)]
    parts += [] if controller is Controller.ARGOCD else [flux()]
    console.data("---\n".join(parts))


def _rendered(arguments: list[str], namespace: str | None) -> "dict[str, Rendered]":
    """The runs of all configs. UsageError where two configs render the same run in two ways."""
    from kctl.config.resolve import configs_in
    from kctl.config.run_config import load
    from kctl.errors import UsageError
    from kctl.manifest.render import render as rendered_of

    found: dict[str, Rendered] = {}
    paths: dict[str, Path] = {}
    for argument in (one for given in arguments for one in configs_in(given)):
        loaded = load(argument, [])
        rendered = rendered_of(loaded.config, loaded.profile, namespace)
        before = found.setdefault(rendered.run, rendered)
        first = paths.setdefault(rendered.run, loaded.path)
        if before.manifests != rendered.manifests:
            raise UsageError(
                f"{first} and {loaded.path}: both are run {rendered.run}, with different cluster sections or profiles: "
                "a run has one file, so keep one of them, or give one another train.revision"
            )
    return found


def _check(to: Path, entries: "list[Entry]", allow_older: bool) -> None:
    from kctl import console
    from kctl.manifest import folder

    passed = {folder.State.SAME, folder.State.KEPT} | ({folder.State.OLDER} if allow_older else set())
    for entry in entries:
        if entry.state not in (folder.State.SAME, folder.State.KEPT):
            console.data(console.printable(_about(entry)))  # a field's name is whatever stands in the file
    wrong = [entry for entry in entries if entry.state not in passed]
    listed = [entry.run for entry in entries if entry.state is not folder.State.NEW]
    stale = bool(listed) and folder.stale(to, listed)
    if stale:
        console.data(f"stale {to / folder.LISTING}: does not list the files beside it")
    if wrong or stale:
        console.say("kctl gitops render writes what is new or stale; --update RUN rewrites a file, or take it from Git")
        raise typer.Exit(1)


def _about(entry: "Entry") -> str:
    from kctl.manifest.folder import State

    words = {
        State.NEW: "no such file yet",
        State.OLDER: f"its config and profile say otherwise today: {', '.join(entry.fields[:5])}",
        State.EDITED: "is not what kctl wrote: somebody changed it",
    }
    more = f" and {len(entry.fields) - 5} more" if len(entry.fields) > 5 else ""
    return f"{entry.state} {entry.path}: {words[entry.state]}{more}"


def _say_update(entry: "Entry", rendered: "Rendered") -> None:
    from kctl.manifest.folder import State, text_of

    if entry.state is State.NEW:
        return
    _say(UPDATED.format(run=entry.run))
    if rendered.manifests[0]["metadata"]["name"] not in text_of(entry.path):
        _say(RENAMED)
    if "namespace" in entry.fields:
        _say(MOVED)


def _say(text: str) -> None:
    from kctl import console

    for line in text.splitlines():
        console.say(line)
