"""kill -9 of anything at any moment: the run goes on from its newest checkpoint and equals the one nobody touched.

One run dies at every moment in turn. FAULTS=few: 6 moments, FAULTS=all: 50, else 20; FAULTS_SEED repeats a seed.
"""

import os
import random
import re
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.lives import EVERY, STEPS_A_LIFE, folder, kill, moments, newest, numbers, start
from tests.training.world import World
from trainer.adapters import verify_adapter

COUNT = {"few": 6, "all": 50}.get(os.environ.get("FAULTS", ""), 20)
SEED = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))

pytestmark = pytest.mark.timeout(120 + 40 * COUNT)


def test_a_run_killed_at_every_moment_equals_the_one_nobody_touched(world: World) -> None:
    print(f"\n{COUNT} kills from seed {SEED}: FAULTS_SEED={SEED} repeats them")
    steps = (COUNT + 4) * STEPS_A_LIFE
    same = {"precision": "fp32", "lora": {"rank": 4, "dropout": 0.1}, "epochs": steps, "max_steps": steps}
    same |= {"ops": {"checkpoint": {"every": f"{EVERY} steps"}}, "evaluation": {"per_epoch": 1, "patience": 1000}}
    for config in ("whole", "torn"):
        world.config(config, **same)
    whole = start(world, "whole", 0)
    assert whole.process.wait(300) == 0, whole.output.read_text()[-3000:]
    run, slowest, halves = folder(world, "torn"), 0.0, 0
    for number, moment in enumerate(moments(SEED, COUNT)):
        began, before = time.monotonic(), newest(run)
        life = start(world, "torn", number)
        seconds = kill(life, moment)
        slowest = max(slowest, seconds)
        half = any(run.checkpoints.glob(".step-*.tmp"))
        halves += half
        resumed = re.search(r"resumed from step-(\d+)", life.output.read_text())
        print(
            f"{number + 1:2d} {moment}: from step {before} to {newest(run)}, "
            f"the rest gone after {seconds:.1f} s, {time.monotonic() - began:.1f} s in all"
            f"{', half a checkpoint left' if half else ''}"
        )
        assert (int(resumed[1]) if resumed else 0) == before or not moment.step, "nothing is lost past a checkpoint"
        assert newest(run) >= before
    last = start(world, "torn", COUNT)
    assert last.process.wait(300) == 0, last.output.read_text()[-3000:]
    print(f"the slowest end of the others took {slowest:.1f} s; {halves} kills left half a checkpoint")
    assert slowest < 15
    assert numbers(run) == numbers(folder(world, "whole")), "to the bit"
    for name in ("adapter", "adapter-last"):
        verify_adapter(run.root / name)
        one, other = (
            load_file(path / name / "adapter_model.safetensors") for path in (run.root, folder(world, "whole").root)
        )
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    assert run.samples.read_text() == folder(world, "whole").samples.read_text()
    assert not [path for path in run.root.rglob(".*")], "temporary files are left"
