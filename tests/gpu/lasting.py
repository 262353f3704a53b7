"""What a run on real GPUs loses, by hand: `python -m tests.gpu.lasting TOKENIZER_FOLDER --ranks N`.

A random Qwen3-30B-A3B of fewer layers with adapters of 0.4 B values: how long steps wait for checkpoints, from SIGTERM
to the end, from a start to the first step when it is resumed; with several ranks one that is killed and one that stands
still; every parameter under ZeRO-3 stopped and resumed. Then answers and a merged model of what was trained.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.bench_dataset import write_chameleons
from tests.gpu.default_path import Launched, launch, parsed, save_model

EVERY, STEPS = 4, 24
LARGE = {"lora": {"rank": 64, "alpha": 128, "expert_rank": 64}, "max_steps": STEPS}


def often(steps: int) -> dict[str, object]:
    return {"log_every": 1, "checkpoint": {"every": f"{steps} steps", "keep": 1}, "generate": {"items": 0}}


def say_stall(run: Launched) -> None:
    """Seconds that the step after a checkpoint was begun takes more than others, its beginning included."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    at = {line["step"]: line["seconds"] for line in lines if "loss" in line}
    took = {step: at[step] - at[step - 1] for step in at if step - 1 in at and step > EVERY}
    after = [seconds for step, seconds in took.items() if step % EVERY == 1]
    others = [seconds for step, seconds in took.items() if step % EVERY != 1]
    usual = statistics.median(others)
    print(
        f"steps {usual:.3f} s; after a checkpoint {', '.join(f'{one:.3f}' for one in after)}: "
        f"{statistics.median(after) - usual:.3f} s more",
        flush=True,
    )


def send(number: signal.Signals, rank: int, _: object) -> None:
    """To the rank's process."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"\0RANK={rank}\0".encode() in (entry / "environ").read_bytes():
                os.kill(int(entry.name), number)


def program(root: Path, *arguments: str) -> int:
    """One of the programs for what comes after training."""
    places = {"TRAINER_MODELS": str(root), "TRAINER_DATA": str(root), "TRAINER_RUNS": str(root / "runs")}
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *arguments], env=os.environ | places, check=False)
    print(f"== {arguments[0]}: exit {done.returncode} in {time.monotonic() - begun:.0f} s", flush=True)
    return done.returncode


def one_run(root: Path, ranks: int) -> list[int]:
    """Stopped once, resumed to its end, answered with, merged. Exit codes that are not as they must be."""
    stopped = launch(root, "large", ranks, at=f"step={EVERY * 3 + 2}/", ops=often(EVERY), **LARGE)
    say_stall(stopped)
    resumed = launch(root, "large", ranks, ops=often(EVERY), **LARGE)
    print(f"first step: cold {stopped.first:.1f} s, resumed {resumed.first:.1f} s", flush=True)
    name = stopped.folder.name
    codes = [stopped.code - 143, resumed.code, program(root, "trainer.merge", name)]
    codes.append(program(root, "trainer.generate", name, "--test", "test.json", "--out", "answers.json"))
    shutil.rmtree(stopped.folder)
    return codes


def several(root: Path, ranks: int) -> list[int]:
    """One rank is killed, then one stands still; the others do not wait for NCCL's timeout."""
    small = {"ops": {**often(EVERY), "hang_after": "15 s"}, "epochs": 100, "max_steps": 400}
    killed = launch(root, "killed", ranks, f"step={EVERY * 2}/", partial(send, signal.SIGKILL, 1), **small)
    hanging = launch(root, "killed", ranks, f"step={EVERY * 4}/", partial(send, signal.SIGSTOP, 1), **small)
    print(sorted(path.name for path in (hanging.folder / "logs").iterdir()), flush=True)
    return [int(killed.code in (0, 143)), hanging.code - 154]


def whole(root: Path, tokenizer: Path, ranks: int) -> list[int]:
    """Every parameter of one layer, under ZeRO-3."""
    shutil.rmtree(root / "model")
    save_model(root / "model", tokenizer, 1)
    small = {"method": "full", "max_steps": 8, "ops": often(EVERY)}
    stopped = launch(root, "full", ranks, at="step=6/", **small)
    return [stopped.code - 143, launch(root, "full", ranks, **small).code]


def main() -> int:
    arguments = parsed(__doc__)
    root, ranks = Path(tempfile.mkdtemp()), arguments.ranks
    save_model(root / "model", arguments.tokenizer, arguments.layers)
    write_chameleons(root / "data.json", 1600)
    write_chameleons(root / "test.json", 96, seed=1)
    codes = several(root, ranks) if ranks > 1 else one_run(root, ranks)
    codes += whole(root, arguments.tokenizer, ranks)
    print(f"exit codes less what they must be: {codes}")
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
