"""Watching a job through changes, deletion, and the death of the API server."""

import json
import threading
import time

import pytest

from kctl.backends.cluster.backend import Cluster
from kctl.backends.cluster.errors import Gone
from kctl.backends.cluster.watch import events
from kctl.manifest import Manifest
from tests.cluster.conftest import GIVEN
from tests.cluster.faults import dead_api_server
from tests.cluster.jobs import job
from tests.cluster.shell import Shell


def _types(seen: Manifest | None) -> list[str]:
    assert seen is not None
    return [condition["type"] for condition in seen.get("status", {}).get("conditions", [])]


def test_yields_every_change_and_the_end(cluster: Cluster, shell: Shell) -> None:
    cluster.create([job("seen-11111111")])
    watch = cluster.watch_job("seen-11111111", 30)
    assert _types(next(watch)) == []
    shell.set_conditions("seen-11111111", "Created", "Running")
    assert _types(next(watch)) == ["Created", "Running"]
    cluster.delete("seen-11111111", 10)
    rest = list(watch)
    assert rest[-1] is None and all(item is not None for item in rest[:-1])


def test_of_nothing_and_of_nothing_new(cluster: Cluster) -> None:
    assert list(cluster.watch_job("nobody-00000000", 30)) == [None]
    cluster.create([job("still-11111111")])
    started = time.monotonic()
    assert len(list(cluster.watch_job("still-11111111", 2))) == 1
    assert 1.5 < time.monotonic() - started < 5


def test_other_jobs_do_not_wake_it(cluster: Cluster, shell: Shell) -> None:
    cluster.create([job("quiet-11111111"), job("noisy-11111111")])
    watch = cluster.watch_job("quiet-11111111", 3)
    next(watch)
    shell.set_conditions("noisy-11111111", "Running")
    assert list(watch) == []


def test_a_version_that_the_server_has_forgotten_is_told_apart(cluster: Cluster) -> None:
    """410 Gone, as after a laptop's night; the loop around it lists again (the restart below runs into it too)."""
    cluster.create([job("late-11111111")])
    with pytest.raises(Gone):
        list(events(cluster._api, "watch", cluster._path("PyTorchJob"), {"resourceVersion": "1"}, time.monotonic() + 5))


@pytest.mark.skipif(bool(GIVEN), reason="kills the API server: only where this suite started it")
def test_survives_the_death_of_the_api_server(cluster: Cluster, shell: Shell) -> None:
    cluster.create([job("tough-11111111")])
    watch = cluster.watch_job("tough-11111111", 120)
    next(watch)

    def restart() -> None:
        with dead_api_server(seconds=3):
            pass
        shell.set_conditions("tough-11111111", "Created", "Running", "Succeeded")

    restarting = threading.Thread(target=restart)
    restarting.start()
    for seen in watch:
        if "Succeeded" in _types(seen):
            break
    else:
        raise AssertionError("the watch ended before the change")
    restarting.join()
    assert json.dumps(seen) == json.dumps(cluster.get_job("tough-11111111"))
