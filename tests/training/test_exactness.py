"""The exactness contract (ARCHITECTURE, "Training"): the loss of a step does not depend on how it was computed.

Two starts of torchrun, with one and with two ranks, run all cases; the tests compare what they left behind.
"""

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.tiny import SMALL_VOCABULARY, small_tokenizer, tiny_dense, tiny_mixture
from trainer.adapters import verify_adapter
from trainer.dataset.prepare import prepare
from trainer.dataset.prepared import load_prepared
from trainer.fast.loss import CHUNK
from trainer.schema.config import TrainConfig
from trainer.schema.identity import run_name
from trainer.schema.loading import RunFile, validated

STEPS, HALF = 30, 15
WORDS = ["the", "ledger", "floor", "rain", "night", "house", "tell", "me", "never"]
WORDS += ["again", "why", "not", "yes", "maybe", "lens", "tuesday", "sleep", "run", "door"]


def dialogue(path: Path, users: int = 12, items: int = 5) -> None:
    """A made-up data set of chameleons shape with lengths that differ a lot."""
    rng = random.Random(7)

    def line(longest: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))

    rows = [
        {
            "user_hash": f"{user:032x}",
            "user": {"profile": {"name": f"P{user}"}},
            "task": {
                "description": "x",
                "task_behavior_collections": [
                    {
                        "type": "dialogue",
                        "data": [
                            {
                                "context": [
                                    {"source": "X", "content": line(25)},
                                    {"source": f"P{user}", "content": line(9)},
                                    {"source": "X", "content": line(25)},
                                ],
                                "continuation": line(12),
                            }
                            for _ in range(items)
                        ],
                    }
                ],
            },
        }
        for user in range(users)
    ]
    path.write_text(json.dumps(rows))


def lopsided(path: Path) -> None:
    """Items of equal length with very few labels or very many: more than the loss takes at once."""
    rng = random.Random(3)
    lines = [(" ".join(rng.choices(WORDS, k=4)), " ".join(rng.choices(WORDS, k=330))) for _ in range(12)]
    records = [{"prompt": a, "completion": b} for pair in lines for a, b in (pair, pair[::-1])]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@dataclass(frozen=True)
class Bench:
    """The folder of the cases and what they share."""

    root: Path

    def config(self, model: str, **changes: Any) -> TrainConfig:
        value: dict[str, Any] = {
            "model": {"path": model},
            "data": {
                "path": "data.json",
                "format": "chameleons",
                "prompt": {"task": "Say the next line.", "instruction": "Continue:"},
                "validation": {"ratio": 0.2},
                "max_length": 256,
            },
            "lora": {"rank": 16, "alpha": 128},
            "optim": {"lr": 1e-3, "max_grad_norm": 0.5, "warmup_steps": 2},
            "global_batch_size": 8,
            "epochs": 50,
            "max_steps": STEPS,
            "precision": "fp32",
            "evaluation": {"per_epoch": 1, "max_items": 7},
            "ops": {"checkpoint": {"every": f"{HALF} steps"}, "log_every": 10, "generate": {"items": 0}},
        }
        for key, change in changes.items():
            target = value
            *path, last = key.split("__")
            for part in path:
                target = target[part]
            target[last] = change
        if value.get("method") == "full":
            del value["lora"]
        return validated(TrainConfig, value, key_of(changes))

    def case(self, name: str, train: TrainConfig, **extra: str) -> dict[str, str]:
        """Write the run file; its run folder is runs-<name>/<run>."""
        run = run_name("tiny", train)
        path = self.root / f"{name}.json"
        path.write_text(RunFile(run, train).to_json())
        prepared = str(self.root / "prepared")
        return {
            "name": name,
            "config": str(path),
            "prepared": prepared,
            "runs": str(self.root / f"runs-{name}"),
            **extra,
        }

    def run_folder(self, name: str) -> Path:
        return next((self.root / f"runs-{name}").glob("tiny-*"))

    def losses(self, name: str) -> list[float]:
        return [record["loss"] for record in self.records(name) if "loss" in record]

    def held_out(self, name: str) -> list[float]:
        return [record["evaluation"]["loss"] for record in self.records(name) if "evaluation" in record]

    def records(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run_folder(name) / "metrics.jsonl").read_text().splitlines()]

    def adapter(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(str(self.run_folder(name) / "adapter-last" / "adapter_model.safetensors"))

    def gradients(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(str(self.root / f"{name}.safetensors"))


def key_of(changes: dict[str, Any]) -> str:
    return "case " + ",".join(f"{key}={change}" for key, change in changes.items())


def launch(root: Path, cases: list[dict[str, str]], ranks: int) -> None:
    """All cases in one process group of `ranks` processes."""
    listing = root / f"cases-{ranks}.json"
    listing.write_text(json.dumps(cases))
    program = Path(__file__).with_name("cases.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--master-port", str(random.randint(20_000, 29_000)), str(program), str(listing)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TRAINER_MODELS": str(root)}
    environment |= {"PYTHONPATH": str(program.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[:9000]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("exactness")
    bench = Bench(root)
    dialogue(root / "data.json")
    small_tokenizer(root / "tokenizer", [root / "data.json"])
    tiny_dense(root / "dense", tokenizer=root / "tokenizer", vocabulary=SMALL_VOCABULARY)
    tiny_mixture(root / "mixture", tokenizer=root / "tokenizer", vocabulary=SMALL_VOCABULARY)
    dense, mixture = bench.config("dense"), bench.config("mixture")
    prepare(dense.data, root, root / "dense", root / "prepared", lambda text: None)
    rows = bench.config("dense", ops__max_tokens=256)
    dropout = bench.config("dense", lora__dropout=0.1)
    full = bench.config("mixture", method="full", max_steps=HALF + 5)
    lopsided(root / "lopsided.jsonl")
    unclipped = bench.config("mixture", method="full", max_steps=4, ops__max_tokens=128, optim__max_grad_norm=None)
    offloaded = unclipped.model_copy(update={"ops": unclipped.ops.model_copy(update={"offload": True})})
    uneven = bench.config(
        "mixture",
        method="full",
        max_steps=4,
        global_batch_size=2,
        data={"path": "lopsided.jsonl", "format": "prompt_completion", "max_length": 512},
    )
    prepare(uneven.data, root, root / "mixture", root / "prepared-lopsided", lambda text: None)
    half = f"tiny-*/checkpoints/step-{HALF:06d}"
    two = [
        bench.case("dense-2", dense),
        bench.case("dense-2-again", dense),
        bench.case("dense-2-rows", rows),
        bench.case("dropout-2", dropout),
        bench.case("mixture-2", mixture),
        bench.case("dense-gradient-2", dense, gradients=str(root / "dense-gradient-2.safetensors")),
        bench.case("mixture-gradient-2", mixture, gradients=str(root / "mixture-gradient-2.safetensors")),
        bench.case("full-2", full),
        bench.case("full-unclipped-2", unclipped),
        bench.case("full-offloaded-2", offloaded),
        bench.case("uneven-2", uneven, prepared=str(root / "prepared-lopsided")),
        bench.case("resumed-full-2", full, resumes=f"{root}/runs-full-2/{half}"),
        bench.case("resumed-2", dense, resumes=f"{root}/runs-dense-2/{half}"),
        bench.case("resumed-dropout-2", dropout, resumes=f"{root}/runs-dropout-2/{half}"),
        bench.case("resumed-mixture-2", mixture, resumes=f"{root}/runs-mixture-2/{half}"),
    ]
    launch(root, two, 2)
    one = [
        bench.case("dense-1", dense),
        bench.case("dense-1-rows", rows),
        bench.case("mixture-1", mixture),
        bench.case("resumed-1", dense, resumes=f"{root}/runs-dense-2/{half}"),
        bench.case("dense-gradient-1", dense, gradients=str(root / "dense-gradient-1.safetensors")),
        bench.case("mixture-gradient-1", mixture, gradients=str(root / "mixture-gradient-1.safetensors")),
    ]
    launch(root, one, 1)
    return bench


@pytest.mark.parametrize("name", ["dense-2", "mixture-2", "full-2"])
def test_the_loss_falls(bench: Bench, name: str) -> None:
    losses = bench.losses(name)
    assert min(losses[-5:]) < 0.9 * losses[0]


def test_the_same_run_twice_is_equal_to_the_bit(bench: Bench) -> None:
    assert bench.losses("dense-2") == bench.losses("dense-2-again")
    first, second = bench.adapter("dense-2"), bench.adapter("dense-2-again")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dense-2", "dense-1"),
        ("dense-2", "dense-2-rows"),
        ("dense-2", "dense-1-rows"),
        ("mixture-2", "mixture-1"),
    ],
)
def test_ranks_and_packing_do_not_change_the_loss(bench: Bench, one: str, other: str) -> None:
    assert bench.losses(one) == pytest.approx(bench.losses(other), rel=1e-6)
    assert bench.held_out(one) == pytest.approx(bench.held_out(other), rel=1e-6)


@pytest.mark.parametrize("model", ["dense", "mixture"])
def test_the_first_gradient_does_not_depend_on_the_ranks(bench: Bench, model: str) -> None:
    one, two = bench.gradients(f"{model}-gradient-1"), bench.gradients(f"{model}-gradient-2")
    assert one.keys() == two.keys()
    moving = [name for name in one if one[name].abs().max() > 0]
    assert any("lora_B" in name for name in moving)
    for name in moving:
        assert (one[name] - two[name]).norm() <= 1e-6 * one[name].norm(), name


@pytest.mark.parametrize(
    ("whole", "resumed"),
    [("dense-2", "resumed-2"), ("dropout-2", "resumed-dropout-2"), ("mixture-2", "resumed-mixture-2")],
)
def test_a_resumed_run_is_equal_to_the_bit(bench: Bench, whole: str, resumed: str) -> None:
    assert bench.losses(resumed) == bench.losses(whole)[HALF:]
    first, second = bench.adapter(whole), bench.adapter(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_under_zero_3_ranks_with_few_and_with_many_labels_stay_together(bench: Bench) -> None:
    items = load_prepared(bench.root / "prepared-lopsided").train
    labels = sorted(items.kept(item) for item in range(len(items)))
    assert labels[0] < CHUNK < labels[-1]
    assert len(bench.losses("uneven-2")) == 4 and bench.losses("uneven-2")[-1] < bench.losses("uneven-2")[0]


def test_a_full_run_resumes_and_leaves_a_model_that_loads(bench: Bench) -> None:
    assert bench.losses("resumed-full-2") == pytest.approx(bench.losses("full-2")[HALF:], rel=1e-6)
    folder = bench.run_folder("full-2") / "adapter-last"
    verify_adapter(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(bench.root / "mixture")
    assert not torch.equal(model.lm_head.weight, base.lm_head.weight)


def test_with_the_optimiser_in_host_memory_a_full_run_computes_the_same(bench: Bench) -> None:
    plain, offloaded = "full-unclipped-2", "full-offloaded-2"
    assert len(bench.losses(plain)) == 4 and bench.losses(plain) == bench.losses(offloaded)
    first, second = (
        load_file(str(bench.run_folder(name) / "adapter-last" / "model.safetensors")) for name in (plain, offloaded)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_resumes_on_another_number_of_ranks(bench: Bench) -> None:
    assert bench.losses("resumed-1") == pytest.approx(bench.losses("dense-2")[HALF:], rel=1e-6)
