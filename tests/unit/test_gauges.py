"""What a live screen knows of its runs: each line of a log once, and a log that does not come blinds nobody."""

import os
import threading
import time
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.backends.local.process import identify
from kctl.backends.local.store import LocalRun, write_json
from kctl.manifest import Manifest
from kctl.run.gauges import Gauge, Gauges

STEP = "step={}/40 loss={} lr=1.0e-03 grad_norm=0.80 tokens_per_s=5210 mem_gib=3.2 eta_s=90"


def at_work(local: Local, run: str, created: str) -> Path:
    """A run that is at work, as far as its files say; where its log belongs."""
    place = LocalRun(local.root / "jobs" / run)
    metadata = {"name": run, "uid": run, "creationTimestamp": created}
    replica = {"replicas": 1, "template": {"spec": {"containers": []}}}
    job: Manifest = {"metadata": metadata, "spec": {"pytorchReplicaSpecs": {"Master": replica}}}
    pod = {
        "metadata": {"name": f"{run}-master-0", "uid": f"{run}-0", "annotations": {}},
        "status": {"phase": "Running"},
    }
    place.pods.mkdir(parents=True)
    place.logs.mkdir()
    write_json(place.job, job)
    write_json(place.pod(f"{run}-master-0"), pod)
    mine = identify(os.getpid())
    write_json(place.supervisor, {"pid": mine.pid, "started": mine.started})
    return place.log(f"{run}-master-0", 1)


def write(log: Path, steps: range) -> None:
    with log.open("a") as file:
        for step in steps:
            print(f"2026-11-26T12:00:{step:02d}.500000000Z {STEP.format(step, 4 - step / 20)}", file=file)


def by_run(gauges: list[Gauge]) -> dict[str, Gauge]:
    return {gauge.view.run: gauge for gauge in gauges}


def test_a_log_that_does_not_come_blinds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kctl.run.gauges._MOMENT", 0.3)
    local = Local(tmp_path)
    os.mkfifo(at_work(local, "silent-00000001", "2026-11-26T11:00:00Z"))  # nobody ever writes into it
    log = at_work(local, "well-00000002", "2026-11-26T11:30:00Z")
    at_work(local, "new-00000003", "2026-11-26T11:40:00Z")
    log.write_text("2026-11-26T12:00:00.000000001Z attempt 2 of well-00000002, newest checkpoint: step 10\n")
    write(log, range(1, 21))
    gauges, began = Gauges(local), time.monotonic()
    seen = by_run(gauges.look())
    assert time.monotonic() - began < 5 and list(seen) == ["silent-00000001", "well-00000002", "new-00000003"]
    well = seen["well-00000002"]
    assert (well.view.step, well.view.attempt, well.view.tokens_per_s, well.view.mem_gib) == (20, 2, 5210.0, 3.2)
    assert seen["silent-00000001"].view.step is None and seen["new-00000003"].losses == ()
    write(log, range(21, 31))
    gauges.look()
    well = by_run(gauges.look())["well-00000002"]
    assert well.losses == tuple(4 - step / 20 for step in range(1, 31)) and well.view.step == 30


def test_a_run_made_again_begins_anew_and_named_ones_are_shown_when_they_have_ended(tmp_path: Path) -> None:
    local = Local(tmp_path)
    log = at_work(local, "again-00000001", "2026-11-26T11:00:00Z")
    write(log, range(1, 11))
    every, named = Gauges(local), Gauges(local, ["again-00000001"])
    assert [len(gauge.losses) for gauge in every.look()] == [10]
    place = LocalRun(local.root / "jobs" / "again-00000001")
    (job,) = local.list_jobs()
    ended = {"type": "Failed", "status": "True", "message": "no data"}
    write_json(place.job, {**job, "status": {"conditions": [ended]}})
    (pod,) = local.list_pods("again-00000001")
    write_json(place.supervisor, {"pid": 1, "started": "never"})
    write_json(place.pod("again-00000001-master-0"), {**pod, "status": {"phase": "Failed"}})
    for gauges in (every, named):
        (gauge,) = gauges.look()
        assert gauge.view.settled and gauge.view.step == 10 and gauges.look() == [gauge]
    assert Gauges(local).look() == []  # it had ended before anybody looked
    job["metadata"]["uid"] = "another"
    write_json(place.job, job)
    mine = identify(os.getpid())
    write_json(place.supervisor, {"pid": mine.pid, "started": mine.started})
    log.unlink()
    write(log, range(1, 3))
    assert [len(gauge.losses) for gauge in every.look()] == [2]
    assert threading.active_count() < 60
