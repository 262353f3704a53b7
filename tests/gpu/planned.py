"""What `kctl plan` says beside what a GPU does, of runs that no constant was fitted to: `python -m tests.gpu.planned`.

For each: the plan by `kctl plan` itself, from a config, the model's config.json and a data report; then the trainer's
own setup and 12 steps (trainer.bench), random weights. Compared are the peak that torch reserved on rank 0 and CUDA's
own beside it, as one number, with the plan's parts together; and the median step with the plan's. Writes planned.json
into $OUT (or --out) after each. --gpus 2 (4, 8) runs those for several; --tiny shows anywhere that it goes through.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainer.bench.__main__ import in_process, machine
from trainer.bench.work import ANSWER_SHARE, Row, item_lengths, model_config, shrunk
from trainer.dataset.report import Report, length_facts

GIB = 2.0**30
MLP = ["gate_proj", "up_proj", "down_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", *MLP]
FULL: dict[str, Any] = {"method": "full", "steps": 8}

ROWS = (
    Row("4B, rank 128, items of 2,048", model="Qwen3-4B 36", rank=128, items=16, lengths="2048"),
    Row("4B, rank 16, rows of 4,096", model="Qwen3-4B 36", rank=16, items=32, dropout=0.05,
        fields={"ops": {"max_tokens": 4096}}),
    Row("4B, rank 32 on MLPs too", model="Qwen3-4B 36", rank=32, fields={"lora": {"targets": ALL}}),
    Row("Llama 3B, rank 64", model="Llama-3.2-3B 28", items=48),
    Row("mixture of 12 layers, rank 32, experts 16", model="Qwen3-30B-A3B 12", rank=32, expert_rank=16),
    Row("mixture of 12 layers, rank 256, experts 32", model="Qwen3-30B-A3B 12", rank=256, expert_rank=32, items=24,
        dropout=0.05),
    Row("mixture of 16 layers, all recomputed", model="Qwen3-30B-A3B 16", rank=16, expert_rank=8, items=128,
        fields={"ops": {"recompute": "full"}}),
    Row("1.7B, every parameter", model="Qwen3-1.7B 28", items=32, **FULL),
    Row("mixture of 3 layers, every parameter", model="Qwen3-30B-A3B 3", fields={"ops": {"max_tokens": 4096}}, **FULL),
    Row("14 layers of 4B, every parameter", model="Qwen3-4B 14", items=32, **FULL),
)  # fmt: skip
SEVERAL = (
    Row("mixture of 12 layers, rank 32, experts 16", model="Qwen3-30B-A3B 12", rank=32, expert_rank=16, items=128),
    Row("4B, rank 128, items of 2,048", model="Qwen3-4B 36", rank=128, items=16, lengths="2048"),
    Row("1.7B, every parameter", model="Qwen3-1.7B 28", **FULL),
)  # fmt: skip


def planned(row: Row, folder: Path, card: str) -> dict[str, Any]:
    """What `kctl plan -o json` says of the row on cards of this name."""
    folder.mkdir()
    model_config(row.model).save_pretrained(folder / "model")
    lengths = item_lengths(row)
    empty: dict[str, Any] = {name: 0 for name in Report.__dataclass_fields__} | {"dropped": {}}
    counts = {"train": len(lengths), "trained_tokens": sum(max(8, length // ANSWER_SHARE) for length in lengths)}
    (folder / "report.json").write_text(Report(**{**empty, **asdict(length_facts(lengths)), **counts}).to_json())
    (folder / "row.yaml").write_text(json.dumps(config(row)))
    words = ["row.yaml", "--model", "model", "--stats", "report.json", "--gpu", card, "-o", "json"]
    told = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(str(Path(one).resolve()) for one in (Path(__file__).parents[2], *told))
    command = [sys.executable, "-m", "kctl", "plan", *words]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{row.name}: kctl plan ended with {done.returncode}: {done.stderr}")
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def config(row: Row) -> dict[str, Any]:
    """The config of a run that does what trainer.bench does of the row."""
    from trainer.bench.ours import run_config

    train = run_config(row).model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    train |= {"precision": "bf16", "data": {**train["data"], "format": "messages"}}
    cluster = {"profile": "default", "nodes": 1, "gpus_per_node": row.ranks}
    return {"name": "row", "train": train, "cluster": cluster}


def beside(plan: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Planned, measured and their ratio, of memory (GiB of a GPU) and of a step (seconds)."""
    memory, step = plan["memory"], plan["time"] or {"step_seconds": None, "sure": ""}
    pairs = {
        "gib": (memory["needed_bytes"] / GIB, found.get("reserved_gib", 0.0) + found.get("beside_gib", 0.0)),
        "torch_gib": ((memory["needed_bytes"] - memory["parts_bytes"]["workspace"]) / GIB, found.get("reserved_gib")),
        "seconds": (step["step_seconds"], found.get("seconds")),
        "row_tokens": (memory["row_tokens"], found.get("ceiling")),
        "recomputed_layers": (memory["recomputed_layers"], found.get("recomputed")),
    }
    ratios = {
        name: {"planned": said, "measured": was, "ratio": said / was if said and was else None}
        for name, (said, was) in pairs.items()
    }
    return {**ratios, "sure": [memory["sure"], step["sure"]]}


def line(name: str, figures: dict[str, Any]) -> str:
    """For a person."""
    if "error" in figures:
        return f"{name}: {figures['error']}"
    words = []
    for key in ("gib", "seconds", "row_tokens", "recomputed_layers"):
        said, was, ratio = (figures[key][part] or 0 for part in ("planned", "measured", "ratio"))
        words.append(f"{key} {said:.5g} / {was:.5g}" + (f" = {ratio:.3f}" if key in ("gib", "seconds") else ""))
    return f"{name}: {'; '.join(words)} ({'; '.join(figures['sure'])}) in {figures['process_seconds']} s"


def main() -> int:
    """0 where all rows ran and are what the plan promises: memory within 10 %, time within 15 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, choices=(1, 2, 4, 8), default=1)
    parser.add_argument("--rows", nargs="*", metavar="WORDS", help="only rows with one of these words in their names")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU trains in seconds")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    arguments = parser.parse_args()
    count = arguments.gpus
    several = tuple(replace(row, name=f"{count} GPUs, {row.name}", ranks=count) for row in SEVERAL)
    rows = [row for row in (ROWS if count == 1 else several)
            if not arguments.rows or any(words in row.name for words in arguments.rows)]  # fmt: skip
    about = machine()
    card = "h200-141" if "H200" in about["device"] else "h100-80"
    root, done, off = Path(tempfile.mkdtemp()), {}, 0
    for number, row in enumerate(rows):
        small = shrunk(row) if arguments.tiny else replace(row, steps=12 if row.method == "lora" else row.steps)
        plan, found = planned(small, root / str(number), card), in_process(small)
        figures = found if "error" in found else {**beside(plan, found), "process_seconds": found["process_seconds"]}
        done[row.name] = {**figures, "plan": plan, "run": found}
        off += "error" in found or any(
            figures[key]["ratio"] is None or abs(figures[key]["ratio"] - 1) > most
            for key, most in (("gib", 0.10), ("seconds", 0.15))
        )
        print(line(row.name, figures), flush=True)
        (arguments.out / "planned.json").write_text(json.dumps({**about, "rows": done}, indent=1) + "\n")
    print(f"{len(rows) - off} of {len(rows)} within 10 % of memory and 15 % of time", flush=True)
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main())
