"""The rows that trainer/bench/README.md has of our own engine, as kctl plan would be asked about them.

Read from the table itself, so that a row measured anew is compared with at once.
"""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.schema.config import TrainConfig
from trainer.schema.loading import validated
from trainer.schema.parameters import Shape, known_shape

README = Path(__file__).resolve().parents[2] / "trainer" / "bench" / "README.md"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["gate_proj", "up_proj", "down_proj"]
TOKENS = 23_624
"""Of a step of 64 items, the table's first sentences say; of 8 items 2,672."""


@dataclass(frozen=True)
class Row:
    """What a row of the table measured."""

    name: str
    tokens_per_s: float
    seconds: float
    reserved_gib: float
    ceiling: int
    recomputed: int
    lengths: list[int] = field(repr=False)

    @property
    def full(self) -> bool:
        return "full-parameter" in self.name

    @property
    def shape(self) -> Shape:
        """Of Qwen3-30B-A3B, or of a dense Qwen3."""
        size = re.search(r"dense (\d)B", self.name)
        shape = known_shape(f"Qwen3-{size[1]}B" if size else "Qwen3-30B-A3B")
        assert shape is not None
        return shape

    @property
    def gpu_gib(self) -> float:
        """What may be used of the H200."""
        told = re.search(r"(\d+) GiB", self.name)
        return float(told[1]) if told else 72.0 if "80 GB card" in self.name else 139.8

    @property
    def train(self) -> TrainConfig:
        """As trainer.bench.ours has it."""
        lora: dict[str, Any] = {"rank": 64, "targets": ATTENTION, "dropout": 0.05 if "dropout" in self.name else 0.0}
        if self.name.startswith("experts"):
            lora |= {"targets": ATTENTION + EXPERTS, "expert_rank": 8}
        method = {"method": "full"} if self.full else {"lora": lora}
        value = {"model": {"path": "m"}, "data": {"path": "d", "format": "messages"}, "optim": {"lr": 1e-4}, **method}
        return validated(TrainConfig, {**value, "global_batch_size": len(self.lengths)}, "test")


def scaled(items: int, total: int) -> list[int]:
    """Lengths spread as the benchmark's, `total` tokens in all."""
    draw = random.Random(0)
    drawn = [min(1024.0, max(40.0, draw.lognormvariate(5.7, 0.6))) for _ in range(items)]
    lengths = [max(1, min(1024, round(one * total / sum(drawn)))) for one in drawn]
    lengths[lengths.index(min(lengths))] += total - sum(lengths)
    return lengths


def _lengths(name: str, tokens: float) -> list[int]:
    each = re.search(r"items of ([\d,]+)", name)
    if each:
        length = int(each[1].replace(",", ""))
        return [length] * max(1, 32_768 // length)
    if "one of 8" in name:
        return scaled(8, 2_672)
    return scaled(256, round(tokens)) if "256 items" in name else scaled(64, round(tokens))


def measured_rows() -> list[Row]:
    """All rows of our engine."""
    text = README.read_text(encoding="utf-8")
    rows = []
    for line in re.findall(r"^\| (?:attention|experts|dense)[^\n]+$", text, re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name, speed, seconds, reserved = cells[0], float(cells[1].replace(",", "")), float(cells[3]), float(cells[5])
        ceiling = int(cells[7].split(" ")[0].strip(",").replace(",", ""))
        layers = re.search(r"(\d+|all) layers recomputed", cells[7])
        recomputed = 0 if layers is None else 36 if layers[1] == "all" else int(layers[1])
        tokens = TOKENS if abs(speed * seconds - TOKENS) < 100 else speed * seconds
        rows.append(Row(name, speed, seconds, reserved, ceiling, recomputed, _lengths(name, tokens)))
    return rows
