"""Ways in which a bench's newest checkpoint is not what was written."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

from tests.training.one_rank import SAVED, Bench
from trainer import checkpoints
from trainer.checkpoints import MANIFEST


def flip(bench: Bench, rng: random.Random) -> None:
    path = one_file(bench, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 20))):
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)


def cut(bench: Bench, rng: random.Random) -> None:
    path = one_file(bench, rng)
    path.write_bytes(path.read_bytes()[: rng.choice((0, rng.randrange(path.stat().st_size)))])


def zeros(bench: Bench, rng: random.Random) -> None:
    path = one_file(bench, rng)
    content = path.read_bytes()
    begin = rng.randrange(len(content) // 2)
    path.write_bytes(content[:begin] + bytes(len(content) - begin))


def lost(bench: Bench, rng: random.Random) -> None:
    one_file(bench, rng).unlink()


def added(bench: Bench, rng: random.Random) -> None:
    shutil.copyfile(bench.path(6) / "rank-0000.safetensors", bench.path(6) / "rank-0001.safetensors")


def of_another_step(bench: Bench, rng: random.Random) -> None:
    name = rng.choice((MANIFEST, "rank-0000.safetensors"))
    shutil.copyfile(bench.path(rng.choice((2, 4))) / name, bench.path(6) / name)


def of_another_run(bench: Bench, rng: random.Random) -> None:
    name = rng.choice((MANIFEST, "rank-0000.safetensors"))
    shutil.copyfile(bench.other.folder.checkpoint(rng.choice(SAVED)) / name, bench.path(6) / name)


def under_another_name(bench: Bench, rng: random.Random) -> None:
    shutil.rmtree(bench.path(6))
    bench.path(4).rename(bench.path(rng.choice((6, 7, 1_000_000))))


def edited(bench: Bench, rng: random.Random) -> None:
    """A value of the manifest is another one; its own sha256 is what it was."""
    path = bench.path(6) / MANIFEST
    value = json.loads(path.read_text())
    place = rng.choice([value, value["progress"], value["files"]["rank-0000.safetensors"], value["position"]])
    key = rng.choice(sorted(place))
    place[key] = rng.choice([7, None, "step", {}, []])
    path.write_text(json.dumps(value))


def one_file(bench: Bench, rng: random.Random) -> Path:
    return bench.path(6) / rng.choice((MANIFEST, "rank-0000.safetensors"))


def sign(path: Path, **changes: Any) -> None:
    """Change the manifest, with a sha256 that fits."""
    value = json.loads((path / MANIFEST).read_text()) | changes
    del value["sha256"]
    (path / MANIFEST).write_text(json.dumps({**value, "sha256": checkpoints._own_digest(value)}))


DAMAGES = (flip, cut, zeros, lost, added, of_another_step, of_another_run, under_another_name, edited)


def same_as_written(bench: Bench) -> bool:
    def content(folder: Path) -> dict[str, Any]:
        read = {path.name: path.read_bytes() for path in folder.iterdir()}
        try:
            return {**read, MANIFEST: json.loads(read[MANIFEST])}
        except (ValueError, KeyError):
            return read

    newest = checkpoints.by_step(bench.run.folder)[-1]
    return newest == bench.path(6) and content(newest) == content(bench.root / "whole" / newest.name)
