"""kctl logs RUN: what all its pods print; where they are gone, the logs that the trainer kept on the volume."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from kctl import console
from kctl.backends.protocol import Backend
from kctl.backends.run_view import PodView, RunView, pods_wanted, ranks_per_pod
from kctl.errors import NotFound, UsageError
from kctl.run.find import located, view_of
from kctl.run.follow import detachable, printing
from kctl.run.kept import WholeLogs, kept_lines, kept_logs
from kctl.run.logs import Begin, LogLine, follow_run, read_all, since_time
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument, where_flags
from kctl.run.settle import say_what_it_waits_for
from trainer.schema.messages import rank_of


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run has ended.")] = False,
    rank: Annotated[int | None, typer.Option("--rank", min=0, help="Only what this rank printed.")] = None,
    pod: Annotated[str | None, typer.Option("--pod", help="Only this pod, e.g. worker-1.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only the last lines of each pod.")] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="The attempt before the newest, from the runs volume.")
    ] = False,
    since: Annotated[str | None, typer.Option("--since", help="10m, 2h, or an RFC 3339 time.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Each line with its time.")] = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show the log, of several pods with a prefix. Following goes on across restarts.

    \b
    Examples:
      kctl logs -f lora_di3
      kctl logs lora_di3 --rank 3 --since 10m
    """
    since_when = since_time(since) if since else None
    backend, name = located(run, local, namespace, context)
    view, job = view_of(backend, name), backend.get_job(name) or {}
    begin = Begin(since_when(backend.now()) if since_when else None, tail)
    wanted = Wanted(name, pod, rank, ranks_per_pod(job))
    if not follow:
        say_what_it_waits_for(view, set())
    chosen = [one.name for one in view.pods if wanted.of_pod(one)]
    if not chosen and view.pods and not previous:
        raise UsageError(
            f"run {name} has no such pod now; it has: {', '.join(one.name for one in view.pods) or 'none'}"
        )
    prefix = pods_wanted(job) > 1 and rank is None and pod is None
    with detachable(name, where_flags(local, namespace, context)):
        if previous or not (chosen or (follow and not view.settled)):
            lines = _kept(backend, view, wanted, previous)
            lines = lines if tail is None else iter(deque(lines, maxlen=tail))
        elif follow and not view.settled:
            lines = follow_run(backend, name, wanted.of_pod, begin)
        else:
            lines = read_all(WholeLogs(backend, name), chosen, begin)
        with console.Lines() as out:
            for text in map(printing(name, prefix, timestamps), filter(wanted.of_rank, lines)):
                out.write(text)


@dataclass(frozen=True)
class Wanted:
    """What --pod and --rank leave."""

    run: str
    pod: str | None
    rank: int | None
    ranks_per_pod: int

    def of_node(self, node: int) -> bool:
        """The ranks of a node are in its pod, whose name ends in its number."""
        number = "" if self.pod is None else self.pod.rpartition("-")[2]
        return (self.rank is None or node == self.rank // self.ranks_per_pod) and number in ("", str(node))

    def of_pod(self, pod: PodView) -> bool:
        """By its name, whole or without the run's."""
        return self.of_node(pod.index) and self.pod in (None, pod.name, pod.name[len(self.run) + 1 :])

    def of_rank(self, line: LogLine) -> bool:
        """A line that says no rank is the launcher's or its first rank's."""
        if self.rank is None:
            return True
        said = rank_of(line.text)
        return said == self.rank or (said == 0 and self.rank % self.ranks_per_pod == 0)


def _kept(backend: Backend, view: RunView, wanted: Wanted, previous: bool) -> Iterator[LogLine]:
    """The logs on the runs volume, without times: of all attempts, or of the one before the newest."""
    with backend.files(view.run) as files:
        logs = kept_logs(files)
        newest = max((attempt for attempt, _ in logs.values()), default=0)
        names = [name for name, (_, node) in logs.items() if wanted.of_node(node)]
        if previous:
            names = [name for name in names if logs[name][0] == newest - 1]
        if not names:
            what = "no earlier attempt" if previous else "no pods and no logs on its volume yet"
            raise NotFound(f"run {view.run} has {what} ({view.phase}); see kctl status {view.run}")
        console.say(f"{'' if previous else 'its pods are gone; '}from the runs volume: {', '.join(names)}")
        for name in names:
            yield from (LogLine(name.removesuffix(".log"), "", text) for text in kept_lines(files, name))
