"""`python -m trainer.bench` on this machine, and its own path beside the plain one: the same losses, nothing compiled
once training has begun."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.bench.__main__ import ROWS, line
from trainer.bench.work import Row, item_lengths

ROOT = Path(__file__).parents[2]
ONE_RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}


def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {**os.environ, "PYTHONPATH": path, "DS_ACCELERATOR": "cpu", **environment}
    return subprocess.run([sys.executable, *command], env=environ, capture_output=True, text=True, timeout=280)


def test_the_fast_path_trains_the_same() -> None:
    found: dict[str, dict[str, Any]] = {}
    for path in ("plain", "fast"):
        done = run(str(ROOT / "tests" / "training" / "as_on_a_gpu.py"), path, **ONE_RANK)
        assert done.returncode == 0, done.stderr[-3000:]
        *log, figures = done.stdout.strip().splitlines()
        assert any("attention flash-attn 4, experts by torch, layers compiled in" in text for text in log) == (
            path == "fast"
        )
        found[path] = json.loads(figures)
    assert found["fast"]["loss"] == pytest.approx(found["plain"]["loss"], rel=1e-6)
    assert found["fast"]["graphs_after_warm_up"] == 0


def test_a_table_and_json(tmp_path: Path) -> None:
    """TRL is nobody's dependency here: its row says so."""
    rows, out = ("experts, skewed", "transformers, padded 8", "TRL, packed"), str(tmp_path / "b.json")
    done = run("-m", "trainer.bench", "--tiny", "--rows", *rows, "--out", out)
    assert done.returncode == 1, done.stdout + done.stderr
    value = json.loads((tmp_path / "b.json").read_text())
    assert value["device"] == "cpu" and "torch" in value["versions"]
    assert [row["name"] for row in value["rows"]] == list(rows)
    *found, failed = value["rows"]
    assert all(row["tokens"] == 6 * 48 and row["tokens_per_s"] > 0 for row in found)
    assert "No module named" in failed["error"]
    table = done.stdout.splitlines()
    assert table[0].split()[:2] == ["row", "tokens/s"] and table[1:] == [line(row) for row in value["rows"]]


def test_an_unknown_row_names_the_known_ones() -> None:
    done = run("-m", "trainer.bench", "--rows", "expert")
    assert done.returncode == 2 and "experts, skewed" in done.stdout.splitlines()


def test_the_work_of_the_rows() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert sum(item_lengths(Row("any"))) == 23_624, "the same as was measured before there was a trainer"
    assert sum(item_lengths(Row("any", items=8))) == pytest.approx(23_624 / 8, rel=0.2)


def test_what_training_waits_for_a_checkpoint(tmp_path: Path) -> None:
    done = run("-m", "trainer.bench.checkpoint", "--values", "6000000", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stdout.splitlines() if line.startswith("checkpoint ")]
    number = r"\d+\.\d+"
    line = rf"checkpoint \d of 0\.0 GB: begin {number} s, copy {number} s \({number} GB/s\), published after {number} s"
    assert len(said) == 4 and all(re.fullmatch(line, one) for one in said), done.stdout
    assert not list(tmp_path.iterdir())
