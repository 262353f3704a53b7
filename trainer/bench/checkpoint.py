"""How long training waits for a checkpoint of a LoRA run: `python -m trainer.bench.checkpoint --values 500000000`.

The values (fp32: masters and both moments) are real, the model around them is not. The loop waits for `begin` at the
end of a step; the copy runs beside the next step, which waits for what is left of it before it moves the masters.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import checkpoints
from trainer.atomic import temporary
from trainer.bench.ours import run_config
from trainer.bench.work import Row
from trainer.checkpoints import Origin, Progress
from trainer.distributed import Ranks, end_process, join, leave
from trainer.engine import Owned, create_moments, deepspeed_config
from trainer.flat import flatten
from trainer.lora_state import Snapshot, owned
from trainer.schema.contract import RunFolder
from trainer.slices import PARTS
from trainer.writer import Writer

SINGLE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
"""One rank, where torchrun did not say otherwise."""
PIECE = 1_000_000
"""Values of one adapter tensor."""


def make_engine(values: int, ranks: Ranks) -> Any:
    """DeepSpeed's engine over so many values: a third of them are trained."""
    import deepspeed

    count = max(1, values // len(PARTS) // PIECE)
    names = {nn.Parameter(torch.zeros(PIECE, device=ranks.device)): f"layer.{number}" for number in range(count)}
    groups, flats = flatten([{"params": list(names)}], names)
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    config = deepspeed_config(run_config(Row("any")), ranks.device.type == "cuda")
    engine, *_ = deepspeed.initialize(model=Owned(flats, lambda batch: batch), optimizer=optimizer, config=config)
    create_moments(engine.optimizer.optimizer, engine.optimizer.single_partition_of_fp32_groups, 1)
    return engine


def measure(writer: Writer, folder: RunFolder, step: int) -> dict[str, float]:
    """Seconds of one checkpoint, each from its beginning: until the loop goes on, until the copy is made, until it is
    published. No step lies between, so all that the copy takes is waited for."""
    begun = time.monotonic()
    temp, progress, origin = temporary(folder.checkpoint(step)), Progress(step), Origin("bench", "", "", "")
    temp.mkdir(parents=True)
    writer.begin(
        temp, {}, lambda files: checkpoints.publish(temp, folder, origin, progress, {"world": 1}, files, lambda: None)
    )
    seconds = {"begin": time.monotonic() - begun}
    writer.copied()
    seconds["copy"] = time.monotonic() - begun
    writer.finish()
    seconds["published"] = time.monotonic() - begun
    checkpoints.prune(folder, 1, 0)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.bench.checkpoint", description=__doc__)
    parser.add_argument("--values", type=int, default=500_000_000, help="fp32 values that a checkpoint holds")
    parser.add_argument("--folder", type=Path, default=None, help="on the volume to be measured (default: TMPDIR)")
    arguments = parser.parse_args()
    for name, value in SINGLE.items():
        os.environ.setdefault(name, value)
    ranks = join()
    engine = make_engine(arguments.values, ranks)
    gigabytes = 4e-9 * sum(value.numel() for fragment in owned(engine) for value in fragment.values.values())
    begun, snapshot = time.monotonic(), Snapshot(engine)
    snapshot.reserving.join()
    print(f"memory for {gigabytes:.1f} GB reserved in {time.monotonic() - begun:.1f} s", flush=True)
    writer = Writer(ranks, snapshot)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
        for step in range(1, 5):
            found = measure(writer, RunFolder(Path(root)), step)
            print(
                f"checkpoint {step} of {gigabytes:.1f} GB: begin {found['begin']:.3f} s, copy {found['copy']:.2f} s "
                f"({gigabytes / found['copy']:.1f} GB/s), published after {found['published']:.1f} s",
                flush=True,
            )
    leave()


if __name__ == "__main__":
    main()
    end_process()
