"""Logs of the local backend: no line lost and none twice, through restarts, over pods, while they are written."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.backends.run_view import PodView
from kctl.backends.times import nanoseconds
from kctl.errors import NotFound
from kctl.run.kept import WholeLogs
from kctl.run.logs import Begin, follow_run, read_all, with_progress
from tests.cli.local_jobs import manifests, until, view

RUN = "talk-0123abcd"
LIVES = """
import os, pathlib, sys, time
lives = pathlib.Path(os.environ["TRAINER_RUNS"]); life = len(list(lives.iterdir())); (lives / str(life)).touch()
for number in range(life * 5000, (life + 1) * 5000):
    print("line", number)
    if number % 1000 == 0:
        sys.stdout.flush(); time.sleep(0.05)
sys.stdout.flush()
os._exit(0 if life == 3 else 143 if life % 2 else os.kill(os.getpid(), 9) or 1)
"""


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Local]:
    local = Local(tmp_path / ".kctl")
    yield local
    for job in local.list_jobs():
        local.delete(job["metadata"]["name"], 20)


def everything(pod: PodView) -> bool:
    return True


def test_following_through_three_restarts_gives_every_line_once(backend: Local) -> None:
    backend.create(manifests(RUN, LIVES))
    followed = [line.text for line in follow_run(backend, RUN, everything, Begin())]
    assert followed == [f"line {number}" for number in range(20_000)]
    read = list(read_all(backend, [f"{RUN}-master-0"], Begin()))
    assert [line.text for line in read] == followed
    times = [nanoseconds(line.time) for line in read]
    assert times == sorted(times)
    middle = read[12_345].time
    since = [line.text for line in read_all(backend, [f"{RUN}-master-0"], Begin(middle))]
    assert since == [line.text for line in read if nanoseconds(line.time) >= nanoseconds(middle)]
    for tail in (0, 1, 7_500, 30_000):
        last = read_all(backend, [f"{RUN}-master-0"], Begin(tail=tail))
        assert [line.text for line in last] == followed[max(0, 20_000 - tail) :]


def test_following_several_pods_to_the_end_of_each(backend: Local) -> None:
    code = (
        "import os, time; rank = os.environ['PET_NODE_RANK']\n"
        "for number in range(300): print(rank, number, flush=True); time.sleep(0.001)\n"
        "print('no newline at the end', end='')"
    )
    backend.create(manifests(RUN, code, workers=2))
    lines = list(follow_run(backend, RUN, everything, Begin()))
    for rank in "01":
        own = [line.text for line in lines if line.pod == f"{RUN}-worker-{rank}"]
        assert own == [*(f"{rank} {number}" for number in range(300)), "no newline at the end"]


def test_a_log_that_is_no_text_and_a_line_without_end_are_kept(backend: Local) -> None:
    code = r"import os; os.write(1, b'\xff\xfe\n\n\r50%\r100%\n'); os.write(2, b'x' * 200_000 + b'\nlast\n')"
    backend.create(manifests(RUN, code))
    until(backend, RUN, lambda job: job.settled)
    lines = [text for _, text in backend.log_lines(f"{RUN}-master-0", False, None)]
    assert lines[:3] == ["\ufffd\ufffd", "", "\r50%\r100%"] and lines[-1] == "last"
    assert "".join(lines[3:-1]) == "x" * 200_000


def test_following_a_run_that_is_deleted_ends(backend: Local) -> None:
    backend.create(manifests(RUN, "import time; print('up', flush=True); time.sleep(60)"))
    seen: list[str] = []
    reader = threading.Thread(
        target=lambda: seen.extend(line.text for line in follow_run(backend, RUN, everything, Begin()))
    )
    reader.start()
    deadline = time.monotonic() + 20
    while not seen and time.monotonic() < deadline:
        time.sleep(0.02)
    backend.delete(RUN, 20)
    reader.join(20)
    assert not reader.is_alive() and seen == ["up"]
    with pytest.raises(NotFound):
        list(backend.log_lines(f"{RUN}-master-0", False, None))


def test_progress_comes_from_the_newest_step_line(backend: Local) -> None:
    code = (
        "import time\nfor step in (10, 20): print(f'step={step}/100 loss={3 - step / 100} lr=2.0e-04 grad_norm=0.8 "
        "tokens_per_s=5210 mem_gib=31.2 eta_s=5400', flush=True)\ntime.sleep(60)"
    )
    backend.create(manifests(RUN, code))
    deadline = time.monotonic() + 20
    while (now := with_progress(backend, view(backend, RUN))).step != 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (now.step, now.steps, now.loss, now.eta_s) == (20, 100, 2.8, 5400.0)


@pytest.mark.parametrize("printed", [200, 50, 0])
def test_a_log_that_begins_late(
    backend: Local, printed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slow to start, all its lines are there; of a longer log the first are on the volume alone, or all so far."""
    monkeypatch.setattr("kctl.run.kept.LATE_SECONDS", 0.5)
    code = (
        "import os, pathlib, time; lines = [f'line {number}' for number in range(200)]\n"
        f"folder = pathlib.Path(os.environ['TRAINER_RUNS'], '{RUN}', 'logs'); folder.mkdir(parents=True)\n"
        "(folder / 'attempt-01-node-0.log').write_text('\\n'.join(lines))\n"
        f"time.sleep(2.5); print('\\n'.join(lines[{200 - printed}:]), flush=True); time.sleep(60)"
    )
    backend.create(manifests(RUN, code))
    pod, end = f"{RUN}-master-0", time.monotonic() + 30
    time.sleep(2.5)
    while sum(bool(text) for _, text in backend.log_lines(pod, False, None)) < printed:
        assert time.monotonic() < end
        time.sleep(0.1)
    read = [line.text for line in read_all(WholeLogs(backend, RUN), [pod], Begin()) if line.text]
    assert read == [f"line {number}" for number in range(200)]
    assert ("has only the end of its log" in capsys.readouterr().err) == (printed < 200)
