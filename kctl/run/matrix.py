"""`--matrix PATH=A,B,C`: which runs one submit means, and having them run a few at a time.

A run of the matrix is a run like any other: its name follows from what it computes, so that the same command again
leaves alone what is active or done, and takes up what failed.
"""

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kctl import console
from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView
from kctl.backends.trouble import GIVE_UP_SECONDS, Trouble
from kctl.errors import KctlError, Refused, Unreachable, UsageError
from kctl.manifest import Manifest
from kctl.run.find import gone, look
from kctl.run.logs import with_progress
from kctl.run.settle import say_what_it_waits_for
from kctl.run.start import start
from kctl.run.submit import Decision
from trainer.errors import ConfigError
from trainer.schema.contract import Phase

if TYPE_CHECKING:
    from kctl.config.run_config import LoadedConfig
    from kctl.manifest.render import Rendered

MOST = 200
"""Runs of one matrix; more are a mistyped list."""
_TURN = 2.0
"""Seconds between looks at the runs that are at work."""

Field = tuple[str, str]
"""(PATH, VALUE as YAML)"""


@dataclass(frozen=True)
class Variant:
    """One run of the matrix: the fields that make it differ, its config and its manifests."""

    fields: tuple[Field, ...]
    loaded: "LoadedConfig"
    rendered: "Rendered"

    @property
    def run(self) -> str:
        return self.rendered.run

    @property
    def manifests(self) -> list[Manifest]:
        return self.rendered.manifests


@dataclass(frozen=True)
class Outcome:
    """What came of one of them: what start did, how the run ended where that was awaited, or the error."""

    variant: Variant
    decision: Decision | None = None
    view: RunView | None = None
    error: KctlError | None = None

    @property
    def failed(self) -> bool:
        """True where the run was seen to its end, and that was no success."""
        return self.view is not None and self.view.phase is not Phase.SUCCEEDED


def combinations(matrix: Sequence[str]) -> list[tuple[Field, ...]]:
    """Every combination of the values, the first PATH's changing slowest. UsageError where a list is wrong."""
    axes = [_axis(one) for one in matrix]
    paths = [axis[0][0] for axis in axes]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise UsageError(f"--matrix {twice}: named twice; write all its values in one list")
    count = 1
    for axis in axes:
        count *= len(axis)
    if count > MOST:
        raise UsageError(f"--matrix: {count} runs, at most {MOST}: shorten a list")
    return list(itertools.product(*axes))


def _axis(text: str) -> list[Field]:
    """`train.lora.rank=32,64`: its fields. Values are YAML, so that lists and quoted commas stay whole."""
    from kctl.config.yaml_reader import parse_yaml

    path, equals, values = text.partition("=")
    path = path.strip()
    if not equals or not path or not values.strip():
        raise UsageError(f"--matrix {text}: write PATH=VALUE,VALUE, e.g. --matrix train.lora.rank=32,64")
    listed = parse_yaml(f"[{values}]", f"--matrix {path}")
    return [(path, json.dumps(value)) for value in listed]


def variants(config: str, sets: list[str], matrix: Sequence[str], namespace: str | None) -> list[Variant]:
    """Every run of the matrix, checked and rendered. UsageError names the values that are wrong together, or that are
    one run since they change nothing that is computed."""
    from kctl.config.run_config import load
    from kctl.manifest.render import render

    made: dict[str, Variant] = {}
    for fields in combinations(matrix):
        try:
            loaded = load(config, [*sets, *(f"{path}={value}" for path, value in fields)])
            rendered = render(loaded.config, loaded.profile, namespace)
        except (UsageError, ConfigError) as error:
            raise UsageError(f"--matrix {written(fields)}: {error}") from None
        if same := made.get(rendered.run):
            raise UsageError(
                f"--matrix: {written(same.fields)} and {written(fields)} are one run, {rendered.run}; "
                "only fields of train, without train.ops, make another run"
            )
        made[rendered.run] = Variant(fields, loaded, rendered)
    return list(made.values())


def written(fields: Sequence[Field]) -> str:
    """`train.lora.rank=32 train.optim.lr=0.0001`."""
    return " ".join(f"{path}={shown(value)}" for path, value in fields)


def shown(value: str) -> str:
    """A value as in a table: text without its quotes."""
    return str(json.loads(value)) if value.startswith('"') else value


def start_all(backend: Backend, chosen: Sequence[Variant], flags: str) -> Iterator[Outcome]:
    """Start one after the other; one that is refused keeps none of the others back."""
    for variant in chosen:
        yield _started(backend, variant, flags)


def _started(backend: Backend, variant: Variant, flags: str) -> Outcome:
    try:
        return Outcome(variant, decision=start(backend, variant.manifests, flags))
    except Unreachable:
        raise
    except KctlError as error:
        return Outcome(variant, error=error)


class Line:
    """The runs of a matrix in line: at most `at_once` at work, the next started when one has ended."""

    def __init__(self, backend: Backend, chosen: Sequence[Variant], at_once: int, flags: str) -> None:
        self._backend, self._at_once, self._flags = backend, at_once, flags
        # What is at work already has its place before anything is started.
        self.waiting = sorted(chosen, key=lambda variant: not self._at_work(variant))
        self.active: dict[str, Outcome] = {}
        self._ended: dict[str, Outcome] = {}
        self._order = [variant.run for variant in chosen]
        self._said: set[str] = set()

    def _at_work(self, variant: Variant) -> bool:
        view = look(self._backend, variant.run)
        return view is not None and not view.settled

    def to_end(self) -> list[Outcome]:
        """All of them, in the matrix's order, once the last has ended; also across a restart of the API server."""
        trouble = Trouble(GIVE_UP_SECONDS)
        while self.waiting or self.active:
            try:
                self._fill()
                for run in list(self.active):
                    self._look(run)
            except (Unreachable, Refused) as error:
                trouble.again(error)
                continue
            trouble.over()
            if self.active:
                time.sleep(_TURN)
        return [self._ended[run] for run in self._order]

    def _fill(self) -> None:
        while self.waiting and len(self.active) < self._at_once:
            outcome = _started(self._backend, self.waiting[0], self._flags)
            variant = self.waiting.pop(0)
            if outcome.error is not None:
                console.warn(str(outcome.error))
                self._ended[variant.run] = outcome
                continue
            self.active[variant.run] = outcome
            if outcome.decision in (Decision.CREATE, Decision.RECREATE):
                console.say(f"run {variant.run} created ({written(variant.fields)})")

    def _look(self, run: str) -> None:
        begun, view = self.active[run], look(self._backend, run)
        if view is not None and not view.settled:
            say_what_it_waits_for(view, self._said)
            return
        if view is None:
            self._ended[run] = Outcome(begun.variant, begun.decision, error=gone(run))
        else:
            self._ended[run] = Outcome(begun.variant, begun.decision, with_progress(self._backend, view))
        del self.active[run]
        if begun.decision is not Decision.DONE:
            console.say(f"run {run} {'is gone' if view is None else f'has ended: {view.phase}'}")
