"""kctl logs RUN: what all its pods print; where they are gone, the logs that the trainer kept on the volume."""

from collections.abc import Iterator
from typing import Annotated

import typer

from kctl import console
from kctl.backends.protocol import Backend
from kctl.backends.run_view import PodView, RunView, pods_wanted, ranks_per_pod
from kctl.errors import NotFound, UsageError
from kctl.run.find import located, view_of
from kctl.run.follow import detachable, printed
from kctl.run.logs import LogLine, follow_run, read_all, since_time
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument, where_flags


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run has ended.")] = False,
    rank: Annotated[int | None, typer.Option("--rank", min=0, help="Only the pod that runs this rank.")] = None,
    pod: Annotated[str | None, typer.Option("--pod", help="Only this pod, e.g. worker-1.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="10m, 2h, or an RFC 3339 time.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Each line with its time.")] = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show the log, of several pods with a prefix. Following goes on across restarts."""
    start = since_time(since) if since else None
    backend, name = located(run, local, namespace, context)
    view, job = view_of(backend, name), backend.get_job(name) or {}
    several = pods_wanted(job) > 1
    node = None if rank is None else rank // ranks_per_pod(job)

    def wanted(one: PodView) -> bool:
        return (node is None or one.index == node) and (pod is None or pod in (one.name, one.name[len(name) + 1 :]))

    chosen = [one.name for one in view.pods if wanted(one)]
    if not chosen and (view.pods or not follow) and (rank is not None or pod is not None):
        raise UsageError(
            f"run {name} has no such pod now; it has: {', '.join(one.name for one in view.pods) or 'none'}"
        )
    prefix = several and rank is None and pod is None
    with detachable(name, where_flags(local, namespace, context)):
        if follow and not view.settled:
            lines = follow_run(backend, name, wanted, start)
        else:
            lines = read_all(backend, chosen, start) if chosen else _kept(backend, view)
        _print(lines, name, prefix, timestamps)


def _print(lines: Iterator[LogLine], run: str, prefix: bool, timestamps: bool) -> None:
    for line in lines:
        console.data(printed(line, run, prefix, timestamps))


def _kept(backend: Backend, view: RunView) -> Iterator[LogLine]:
    """The logs of all attempts on the runs volume, without times."""
    with backend.files(view.run) as files:
        names = [name for name in files.names("logs") if name.endswith(".log")]
        if not names:
            raise NotFound(f"run {view.run} has no pods and no logs on its volume yet ({view.phase})")
        console.say(f"its pods are gone; from the runs volume: {', '.join(names)}")
        for name in names:
            rest = b""
            for chunk in files.read(f"logs/{name}"):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (LogLine(name.removesuffix(".log"), "", line.decode(errors="replace")) for line in lines)
            if rest:
                yield LogLine(name.removesuffix(".log"), "", rest.decode(errors="replace"))
