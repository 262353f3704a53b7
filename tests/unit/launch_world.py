"""A complete little world for the launcher: volumes, a run file, and programs that stand where torchrun stands.

The programs are real processes of two levels, as with torchrun: a parent that waits, and a rank in its own session.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.schema.config import TrainConfig
from trainer.schema.contract import RunFolder
from trainer.schema.identity import run_name
from trainer.schema.loading import RunFile

ROOT = Path(__file__).parents[2]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

PARENT = """
import os, signal, subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={**os.environ, "RANK": "0"}, start_new_session=True)
def end(*_):
    rank.kill()
    sys.exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("STUBBORN") else end)
sys.exit(1 if rank.wait() else 0)
"""

LAUNCH = """
import json, sys
from trainer.launch import main
from trainer.pod.ownership import Timing
sys.exit(main(json.loads(sys.argv[1]), command=[sys.executable, "-c", sys.argv[2], sys.argv[3]],
              timing=Timing(beat=0.1, still=1.0, patience=4.0, pause=0.05)))
"""

PUBLISH = """
import os, pathlib
from trainer.pod import outcome
from trainer.atomic import write_json
folder = pathlib.Path(os.environ["TRAINER_RUN_FOLDER"])
(folder / "adapter").mkdir(exist_ok=True)
write_json(folder / "adapter" / "MANIFEST.json", {"files": {}})
outcome.progress(7, 7, 1.25, float("nan"))
outcome.success({"step": 7, "best_step": 5})
print("trained by plan", os.environ["TRAINER_PLAN"])
"""
"""A rank that succeeds."""

OBEDIENT = """
import os, pathlib, sys, time
from trainer.pod import outcome
print("rank is up", flush=True)
while not pathlib.Path(os.environ["TRAINER_STOP_FILE"]).exists():
    time.sleep(0.02)
why = pathlib.Path(os.environ["TRAINER_STOP_FILE"]).read_text()
print("stopping:", why, flush=True)
outcome.progress(3, 7, 1.5, None)
outcome.report(143 if why == "preempted" else 9, "saved at step 3")
sys.exit(1)
"""
"""A rank that trains until it is asked to stop."""

DEAF = """
import time
print("rank is up", flush=True)
time.sleep(60)
"""
"""A rank that never looks at the stop file."""


def train_config(**changes: Any) -> TrainConfig:
    """The smallest run there is, with `changes` at the top level."""
    data = {"path": "train.jsonl", "format": "prompt_completion", "validation": {"ratio": 0.5}}
    base = {"model": {"path": "tiny"}, "data": data, "lora": {"rank": 2}, "optim": {"lr": 1e-3}}
    return TrainConfig.model_validate({**base, **changes})


def write_tokenizer(folder: Path) -> None:
    """A real byte-level tokenizer and a chat template into a model folder (needs the trainer's packages)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "eos_token": "<|im_end|>"}))


@dataclass(frozen=True)
class World:
    """Folders of one run and the environment of its pod."""

    root: Path
    file: RunFile
    folder: RunFolder
    environ: dict[str, str]

    def start(self, rank: str, *argv: str, **environ: str) -> "subprocess.Popen[str]":
        """The launcher with `rank` as the rank's program."""
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCH, json.dumps(argv), PARENT, rank],
            env={**self.environ, **environ},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def launch(self, rank: str, *argv: str, **environ: str) -> tuple[int, str]:
        """Exit code and output of one whole attempt."""
        process = self.start(rank, *argv, **environ)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def message(self) -> dict[str, Any]:
        """The termination message."""
        value: dict[str, Any] = json.loads((self.root / "termination").read_bytes())
        return value

    def json(self, name: str) -> Any:
        """A JSON file of the run folder."""
        return json.loads((self.folder.root / name).read_bytes())


def make_world(root: Path, **changes: Any) -> World:
    """Volumes with a model folder (of empty files) and data, an empty runs volume, and the run file."""
    model = root / "models" / "tiny"
    model.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}" if name.endswith("json") else "")
    for name in ("data", "runs", "tmp"):
        (root / name).mkdir()
    pairs = [{"prompt": f"question {index}?", "completion": f"answer {index}"} for index in range(12)]
    (root / "data" / "train.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    train = train_config(**changes)
    file = RunFile(run_name("demo", train), train)
    (root / "config.json").write_text(file.to_json())
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TRAINER_", "PET_"))}
    environ = {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(root / "tmp"),
        "TRAINER_CONFIG": str(root / "config.json"),
        "TRAINER_MODELS": str(root / "models"),
        "TRAINER_DATA": str(root / "data"),
        "TRAINER_RUNS": str(root / "runs"),
        "TRAINER_TERMINATION_LOG": str(root / "termination"),
        "TRAINER_GRACE_SECONDS": "20",
    }
    return World(root, file, RunFolder(root / "runs" / file.run), environ)


def wait_for(condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Return once `condition` holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def log_has(world: World, text: str, attempt: int = 1) -> Callable[[], bool]:
    """Whether the attempt's log file on the volume holds `text`."""
    path = world.folder.log(attempt, 0)
    return lambda: path.exists() and text in path.read_text(errors="replace")
