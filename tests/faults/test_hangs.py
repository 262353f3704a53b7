"""A rank that stands still: noticed, everybody's stacks and last collectives in the run's logs, and on from there."""

import json
import re
import signal
import time

from tests.faults.lives import folder, last_step, start
from tests.training.world import World, send, wait_for

HANG_AFTER = 6.0


def test_a_rank_that_stands_still_ends_the_attempt_and_leaves_stacks(world: World) -> None:
    ops = {"hang_after": f"{HANG_AFTER:.0f} s", "checkpoint": {"every": "2 steps"}}
    world.config("hanging", precision="fp32", epochs=100, ops=ops)
    run, life = folder(world, "hanging"), start(world, "hanging", 1)
    wait_for(lambda: last_step(run) >= 13)  # each thing was seen once
    began = time.monotonic()
    send(life.ranks()[1], signal.SIGSTOP)
    assert life.process.wait(120) == 154, life.output.read_text()[-3000:]
    took = time.monotonic() - began
    said = life.output.read_text()
    print(f"a rank stopped for ever: the launcher ended after {took:.1f} s")
    assert HANG_AFTER < took < HANG_AFTER + 30
    assert re.search(
        r"rank 0: (step|checkpoint|evaluation) \d+ has not ended after \d+ s: stacks and last coll", said
    ), said
    assert re.search(r"Restarting: rank 0: \w+ \d+ has not ended .* in the run's logs folder \(code 154\)", said)
    waiting, stopped = (next(run.logs.glob(f"attempt-01-node-0-rank-{rank}-pid-*.stacks")) for rank in (0, 1))
    for stacks in (waiting, stopped):
        text = stacks.read_text()
        assert "in fit" in text and "in main" in text, text
    assert waiting.read_text().startswith("rank 0: "), "it noticed"
    assert re.match(r"(Current t|T)hread ", stopped.read_text()), "it was asked"
    entries = json.loads((run.logs / "attempt-01-node-0-rank-0.collectives.json").read_text())["entries"]
    assert any("gloo" in entry["profiling_name"] for entry in entries)
    assert json.loads(run.attempts.read_text())[-1]["code"] == 154
    assert not run.result.exists(), "it is not over"


def test_the_next_attempt_goes_on(world: World) -> None:
    world.config("hanging", precision="fp32", epochs=100, ops={"checkpoint": {"every": "2 steps"}})
    life = start(world, "hanging", 2)
    wait_for(lambda: "resumed from step-" in life.output.read_text() or life.process.poll() is not None)
    life.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert life.process.wait(60) == 143, life.output.read_text()[-3000:]
    print(f"from SIGTERM to the launcher's end: {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 20
