"""LoRA and full-parameter training side by side: one config trained both ways on this machine, one table.

`python -m demo.methods [CONFIG] [--set FIELD=VALUE ...]`, by default eight steps of the demo (the README has a GPU's
line). Both runs see the same items in the same steps; full-parameter training at a tenth of LoRA's learning rate, the
usual ratio of their best ones. What has succeeded already is not trained again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from demo.compare import LOSSES, CompareError
from demo.inputs import InputError, prepare
from demo.plays import PlayError
from kctl.config.run_config import load
from kctl.errors import KctlError

if TYPE_CHECKING:
    from rich.console import Console

SHORT = (
    "train.max_steps=8",
    "train.evaluation.max_items=12",
    "train.ops.log_every=1",
    "train.ops.generate.items=0",
    "train.ops.checkpoint.every=1 h",
)
"""Laid over the config; what is given on the command line comes after."""
FULL = ("train.method=full", "train.lora=null")
RATIO = 10


@dataclass(frozen=True)
class Measured:
    """What a run's folder says. `output` in bytes; losses are held-out nats per token before and after, by LOSSES."""

    rate: float
    trained: int
    total: int
    seconds_a_step: float
    memory_gib: float
    output: int
    losses: dict[str, tuple[float, float]]


def measured(run: Path, rate: float) -> Measured:
    """A succeeded run, measured. CompareError where its files do not say enough."""
    try:
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        before, after = result["before"], result["after"]
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        logged = [record for record in map(json.loads, lines) if "mem_gib" in record]
        paces = [
            (second["seconds"] - first["seconds"]) / (second["step"] - first["step"])
            for first, second in pairwise(logged)
        ]
        return Measured(
            rate=rate,
            trained=int(result["trained"]),
            total=int(result["total"]),
            seconds_a_step=statistics.median(paces),  # an evaluation between two steps is not a step's
            memory_gib=max(record["mem_gib"] for record in logged),
            output=sum(path.stat().st_size for path in (run / "adapter").iterdir()),
            losses={key: (before[key], after[key]) for key in LOSSES if before[key] is not None},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompareError(f"{run}: cannot be measured ({error!r}): train at least 2 steps, delete it first") from None


def train(config: str, name: str, sets: list[str]) -> Measured:
    """Train `config` with `sets` here, under another name. CompareError where the run does not succeed."""
    sets = [f"name=methods-{name}", *sets]
    loaded = load(config, sets).config
    words = [word for one in sets for word in ("--set", one)]
    if subprocess.run([sys.executable, "-m", "kctl", "submit", config, "--local", "--follow", *words]).returncode:
        raise CompareError(f"{loaded.run} did not succeed; its log: kctl logs {loaded.run} --local")
    return measured(Path(os.environ.get("KCTL_LOCAL") or ".kctl") / "runs" / loaded.run, loaded.train.optim.lr)


def show(lora: Measured, full: Measured, console: "Console") -> None:
    """Print the table."""
    from rich.table import Table

    table = Table(title="The same items and steps, trained both ways", title_justify="left")
    table.add_column("")
    for heading in ("LoRA", "full"):
        table.add_column(heading, justify="right")
    for label, cell in (
        ("learning rate", lambda one: f"{one.rate:.1e}"),
        ("trained parameters", lambda one: f"{one.trained / 1e6:,.1f} M"),
        ("of all", lambda one: f"{one.trained / one.total:.1%}"),
        ("seconds a step", lambda one: f"{one.seconds_a_step:.2f}"),
        ("peak memory of rank 0, GiB", lambda one: f"{one.memory_gib:.2f}"),
        ("output, MB", lambda one: f"{one.output / 1e6:,.1f}"),
    ):
        table.add_row(label, cell(lora), cell(full))
    for key in lora.losses:
        cells = (f"{before:.3f} -> {after:.3f}" for before, after in (lora.losses[key], full.losses[key]))
        table.add_row(f"held-out loss of {LOSSES[key]}", *cells)
    console.print(table)


def main() -> int:
    """Exit code 1 with one sentence where a run does not succeed."""
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python -m demo.methods", description="LoRA and full training in one table.")
    parser.add_argument("config", nargs="?", default="demo", help="a LoRA config")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="FIELD=VALUE", help="for both runs")
    asked = parser.parse_args()
    try:
        if asked.config == "demo":
            prepare(Path(os.environ.get("KCTL_LOCAL") or ".kctl"))
        sets = [*SHORT, *asked.sets]
        lora = train(asked.config, "lora", sets)
        full = train(asked.config, "full", [f"train.optim.lr={lora.rate / RATIO}", *sets, *FULL])
        show(lora, full, Console(highlight=False, markup=False))
    except (CompareError, InputError, PlayError, KctlError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
