"""`python -m trainer.bench [--rows NAME ...] [--out FILE]`: each row in a process of its own, a table, JSON beside it.

A row's line is printed and written when it is done. Without a GPU it needs --tiny, which only shows that it runs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.bench.work import Row, shrunk

WITH_EXPERTS = {"expert_rank": 8}
CARD_80 = {"gpu_gib": 72.0}
SEED = "eager padded=2 checkpointing"

ROWS = (
    Row("attention"),
    Row("attention, dropout 0.05", dropout=0.05),
    Row("attention, 90 GiB", max_gib=90),
    Row("experts", **WITH_EXPERTS),
    Row("experts, dropout 0.05", dropout=0.05, **WITH_EXPERTS),
    Row("attention, skewed", skewed=True),
    Row("experts, skewed", skewed=True, **WITH_EXPERTS),
    Row("attention, 80 GB card", **CARD_80),
    Row("experts, 80 GB card", **CARD_80, **WITH_EXPERTS),
    Row("attention, one of 8 ranks", items=8),
    Row("experts, one of 8 ranks", items=8, **WITH_EXPERTS),
    Row("attention, uniform lengths", lengths="uniform"),
    Row("attention, 256 items", items=256),
    *(Row(f"attention, items of {tokens}", items=max(1, 32_768 // tokens), lengths=str(tokens))
      for tokens in (1024, 4096, 32_768)),
    Row("dense 8B", model="qwen3-8b"),
    Row("dense 4B", model="qwen3-4b"),
    Row("dense 4B, full-parameter", model="qwen3-4b", method="full"),
    Row("the seed's way", engine="hf", options=SEED, steps=2),
    Row("transformers, padded 2", engine="hf", options="padded=2 checkpointing", steps=3),
    Row("transformers, padded 8", engine="hf", options="padded=8 checkpointing"),
    Row("TRL, packed, checkpointing", engine="trl", options="packed checkpointing"),
    Row("TRL, packed", engine="trl", options="packed"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.bench", description=__doc__)
    parser.add_argument("--rows", nargs="*", metavar="NAME", help="only these rows; without: all")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU trains in seconds")
    parser.add_argument("--list", action="store_true", help="the rows' names")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        figures = json.dumps(measured(Row(**json.loads(arguments.one))))
        if os.environ.get("RANK", "0") == "0":
            print(figures)
        return 0
    wanted = arguments.rows or [row.name for row in ROWS]
    chosen = [row for row in ROWS if row.name in wanted]
    if arguments.list or not chosen:
        print("\n".join(row.name for row in ROWS))
        return 0 if arguments.list else 2
    chosen = [shrunk(row) for row in chosen] if arguments.tiny else chosen
    done: list[dict[str, Any]] = []
    names = f"{'row':32} {'tokens/s':>9} {'s a step':>9} {'first':>6} {'ready':>6} {'GiB':>6} {'planned':>7}"
    print(f"{names}  rows of, recomputed")
    for row in chosen:
        done.append(in_process(row))
        print(line(done[-1]), flush=True)
        arguments.out.write_text(json.dumps({**machine(), "rows": done}, indent=1) + "\n")
    return int(any("error" in figures for figures in done))


def measured(row: Row) -> dict[str, Any]:
    """The figures of one row, in this process."""
    if row.engine == "ours":
        from trainer.bench import ours

        return ours.measure(row)
    from trainer.bench import peers

    return peers.measure(row)


def in_process(row: Row) -> dict[str, Any]:
    """The row and its figures, or `error` with the last line of what its process said."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={row.ranks}"]
    one = ["-m", "trainer.bench", "--one", json.dumps(asdict(row))]
    command = [sys.executable, *(several if row.ranks > 1 else []), *one]
    single = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    start = time.monotonic()
    environment = {**os.environ, **({} if row.ranks > 1 else single)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall = time.monotonic() - start
    lines = done.stdout.strip().splitlines()
    log = [text for text in lines if not text.startswith("{")]
    found = (
        json.loads(lines[-1]) if done.returncode == 0 else {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
    )
    return {**asdict(row), **found, "process_seconds": round(wall, 1), "log": log}


def line(figures: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in figures:
        return f"{figures['name']:32} {figures['error'][:120]}"
    numbers = f"{figures['tokens_per_s']:9,.0f} {figures['seconds']:9.3f} {figures['first_seconds']:6.1f}"
    planned = figures.get("planned_gib", 0)
    place = f"{figures.get('ready_seconds', 0):6.1f} {figures.get('reserved_gib', 0):6.1f} {planned:7.1f}"
    return f"{figures['name']:32} {numbers} {place}  {figures.get('ceiling', '')}, {figures.get('recomputed', '')}"


def machine() -> dict[str, Any]:
    """What ran on what, and when."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for name in ("torch", "triton", "transformers", "peft", "deepspeed", "flash-attn-4", "quack-kernels", "trl"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"date": time.strftime("%Y-%m-%d"), "device": device, "versions": versions}


if __name__ == "__main__":
    sys.exit(main())
