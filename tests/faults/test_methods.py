"""LoRA beside full-parameter training by one command, as a person types it."""

import re
import subprocess
import sys
from pathlib import Path

from tests.training.world import World

ROOT = Path(__file__).resolve().parents[2]


def table(world: World, *words: str) -> tuple[int, list[list[str]], str]:
    """The exit code, the cells of the table's rows, and everything that was said."""
    done = subprocess.run(
        [sys.executable, "-m", "demo.methods", *words],
        cwd=world.root,
        env={**world.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    rows = [re.split(r"\s*│\s*", line.strip("│ ")) for line in done.stdout.splitlines() if line.startswith("│")]
    return done.returncode, rows, done.stdout + done.stderr


def test_both_methods_in_one_table(world: World) -> None:
    data = {"path": "train.json", "format": "chameleons", "validation": {"path": "held.json"}, "max_length": 1024}
    world.config("small", data=data, precision="fp32", optim={"lr": 1e-2}, epochs=9, evaluation={"per_epoch": 1})
    asked = ("small", "--set", "train.max_steps=6")
    code, rows, said = table(world, *asked)
    assert code == 0, said[-5000:]
    shown = {label: (lora, full) for label, lora, full in rows}
    assert shown["learning rate"] == ("1.0e-02", "1.0e-03")
    trained = [float(cell.removesuffix(" M")) for cell in shown["trained parameters"]]
    assert trained[0] < trained[1] and shown["of all"][1] == "100.0%"
    assert all(float(cell) > 0 for label in ("seconds a step", "peak memory of rank 0, GiB") for cell in shown[label])
    assert float(shown["output, MB"][0]) < float(shown["output, MB"][1])
    losses = [cell.split(" -> ") for cell in shown["held-out loss of the answer's own tokens"]]
    assert losses[0][0] == losses[1][0] and all(float(after) < float(before) for before, after in losses)

    assert table(world, *asked)[1] == rows, "what has succeeded is not trained again"
    code, rows, said = table(world, "small", "--set", "train.optim.lr=0")
    assert code == 1 and not rows and "train.optim.lr" in said
