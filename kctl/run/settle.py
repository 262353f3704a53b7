"""Waiting until a run has settled: finished, and its pods have ended. Says on stderr what holds it up."""

import math
import time

from kctl import console
from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView
from kctl.backends.trouble import GIVE_UP_SECONDS, Trouble
from kctl.errors import Refused, TimedOut, Unreachable
from kctl.run.find import view_of, viewed
from trainer.schema.contract import Phase

BEYOND_GRACE = 60.0
"""Seconds that the end of a run's pods may take after their grace."""
_WATCH_SECONDS = 10.0
"""Between looks at the pods of a run that does not change: what they wait for is no change of their job."""
_TURN = 0.2


def say_what_it_waits_for(view: RunView, said: set[str]) -> None:
    """On stderr, each cause once: who waits for a run that cannot start should not wait in vain."""
    if view.phase is Phase.PENDING and view.sentence and view.sentence not in said:
        said.add(view.sentence)
        console.say(f"run {view.run} is Pending: {view.sentence}")


def until_settled(backend: Backend, run: str, timeout: float | None, flags: str) -> RunView:
    """The run once it is finished and its pods have ended, also across a restart of the API server.

    TimedOut after `timeout` seconds (None: no limit).
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    trouble, said = Trouble(GIVE_UP_SECONDS, deadline), set[str]()
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            view = _watched(backend, run, min(left, _WATCH_SECONDS), said)
        except (Unreachable, Refused) as error:
            trouble.again(error)
            continue
        trouble.over()
        if view.settled:
            return view
        if time.monotonic() >= deadline:
            why = f": {view.sentence}" if view.sentence else ""
            raise TimedOut(
                f"run {run} is still {view.phase} after {timeout:g} s{why}; it goes on, see: kctl status {run}{flags}"
            )
        time.sleep(_TURN)


def _watched(backend: Backend, run: str, seconds: float, said: set[str]) -> RunView:
    """The run as it is after `seconds`, or as soon as it is finished: the end of its pods is no change of the job."""
    for job in backend.watch_job(run, seconds):
        if job is None or viewed(backend, job).phase.finished:
            break
    view = view_of(backend, run)
    say_what_it_waits_for(view, said)
    return view
