"""Items whose loss is no number, in real runs: skipped without a trace in the weights, gone back from, then the end.

The token of the letter Z has an embedding of infinities; whatever item holds it has no loss.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.test_exactness import Bench, launch
from tests.training.tiny import SMALL_VOCABULARY, config_of, small_tokenizer
from tests.training.world import WORDS, write_pairs
from trainer.batches import step_items
from trainer.dataset.prepare import prepare
from trainer.dataset.prepared import load_prepared
from trainer.schema.config import TrainConfig

ITEMS, BATCH = 48, 4
ONE, ROW, TWICE = [6], [6, 7], [6, 7, 10, 11]
"""Steps (from 1) with an item that has no loss."""


def poisoned(root: Path, name: str, train: TrainConfig, steps: Iterable[int]) -> None:
    """The same pairs with a Z in one item of each of these steps, prepared in root/prepared-NAME."""
    lines = (root / "pairs.jsonl").read_text().splitlines()
    for step in steps:
        place = step_items(step - 1, ITEMS, train)[1]
        pair = json.loads(lines[place])
        lines[place] = json.dumps({**pair, "prompt": pair["prompt"] + " Z"})
    (root / "data.jsonl").write_text("\n".join(lines) + "\n")
    prepare(train.data, root, root / "dense", root / f"prepared-{name}", lambda text: None)


def model(root: Path) -> None:
    """A tiny model with a head of its own, since infinities in a head spoil every item."""
    config = config_of("qwen3", SMALL_VOCABULARY)
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tokenizer = json.loads((root / "tokenizer" / "tokenizer.json").read_text())
    made.get_input_embeddings().weight.data[tokenizer["model"]["vocab"]["Z"]] = torch.inf
    made.save_pretrained(root / "dense")
    for file in (root / "tokenizer").iterdir():
        (root / "dense" / file.name).write_text(file.read_text())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("guards")
    bench = Bench(root)
    write_pairs(root / "pairs.jsonl", WORDS, ITEMS)
    write_pairs(root / "held.jsonl", WORDS, 6)
    small_tokenizer(root / "tokenizer", [root / "pairs.jsonl"])
    model(root)
    data = {"path": "data.jsonl", "format": "prompt_completion", "validation": {"path": "held.jsonl"}}
    changes: dict[str, Any] = {"data": data, "max_steps": 12, "epochs": 1, "global_batch_size": BATCH}
    changes |= {"ops__checkpoint__every": "5 steps", "ops__checkpoint__keep": 20, "optim__schedule": "constant"}
    lora = bench.config("dense", **changes)
    often = bench.config("dense", **{**changes, "ops__checkpoint__every": "3 steps"})
    strict = bench.config("dense", **changes, ops__max_skipped=1)
    full = bench.config("dense", method="full", **{**changes, "max_steps": 6})
    shorter = bench.config("dense", method="full", **{**changes, "max_steps": 5})
    full_row = bench.config("dense", method="full", **{**changes, "max_steps": 7, "ops__max_skipped": 1})
    offloaded = bench.config("dense", method="full", **{**changes, "max_steps": 6, "ops__offload": True})
    for name, steps in (("one", ONE), ("row", ROW), ("twice", TWICE)):
        poisoned(root, name, lora, steps)
    one, row, twice = (str(root / f"prepared-{name}") for name in ("one", "row", "twice"))
    later, from_5 = "tiny-*/checkpoints/step-0000[01][01789]", f"{root}/runs-row/tiny-*/checkpoints/step-000005"
    (root / "stop").write_text("preempted")
    launch(
        root,
        [
            bench.case("one", often, prepared=one),
            bench.case("one-on", often, prepared=one, resumes=f"{root}/runs-one/{later}"),
            bench.case("patient", lora, prepared=row),
            bench.case("row", strict, prepared=row),
            bench.case("row-on", strict, prepared=row, resumes=from_5),
            bench.case("stopped", strict, prepared=row, resumes=from_5, stop=str(root / "stop")),
            bench.case("stopped-on", strict, prepared=row, runs=f"{root}/runs-stopped"),
            bench.case("twice", strict, prepared=twice),
            bench.case("full", full, prepared=one),
            bench.case("offloaded", offloaded, prepared=one),
            bench.case("shorter", shorter, prepared=one),
            bench.case("full-row", full_row, prepared=row),
        ],
        2,
    )
    return bench


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def newest(bench: Bench, name: str) -> tuple[int, dict[str, Any]]:
    """Step of the newest checkpoint, and what it remembers."""
    path = max((bench.run_folder(name) / "checkpoints").glob("step-*"))
    return int(path.name[5:]), json.loads((path / "checkpoint.json").read_text())["progress"]


def test_a_step_without_a_loss_is_counted_and_no_checkpoint_is_written_after_it(bench: Bench) -> None:
    losses = bench.losses("one")
    assert len(losses) == 12 and [step for step, loss in enumerate(losses, 1) if loss is None] == ONE
    step, remembered = newest(bench, "one")
    assert step >= 9 and remembered["skipped"] == remembered["without_update"] == 1
    assert remembered["bad"] == remembered["left_out"] == []
    assert not (bench.run_folder("one") / "checkpoints" / "step-000006").exists(), "due, but the weights may be bad"


def test_a_run_that_skipped_a_step_resumes_to_the_bit(bench: Bench) -> None:
    again = bench.losses("one-on")
    assert 1 <= len(again) <= 5 and again == bench.losses("one")[-len(again) :]
    assert equal(bench.adapter("one-on"), bench.adapter("one"))


def test_too_many_in_a_row_go_back_and_leave_their_items_out(bench: Bench) -> None:
    losses = bench.losses("row")
    assert [record["step"] for record in bench.records("row") if "loss" in record] == [1, 2, 3, 4, 5, 8, 9, 10, 11, 12]
    assert None not in losses and len(bench.losses("patient")) == 12
    _, remembered = newest(bench, "row")
    train = bench.config("dense", global_batch_size=BATCH)
    assert remembered["left_out"] == sorted(item for step in ROW for item in step_items(step - 1, ITEMS, train))
    # What the engine skips and what is not even tried are the same to the bit: a skipped step leaves no trace.
    assert losses == [loss for loss in bench.losses("patient") if loss is not None]
    assert equal(bench.adapter("row"), bench.adapter("patient"))


def test_what_is_left_out_stays_so_in_a_resumed_run(bench: Bench) -> None:
    assert bench.losses("row-on") == bench.losses("row")[5:] and equal(bench.adapter("row-on"), bench.adapter("row"))
    (one, first), (other, second) = newest(bench, "row"), newest(bench, "row-on")
    assert one >= 10 and other >= 10 and first["left_out"] == second["left_out"]


def test_what_a_stop_saves_among_bad_steps_is_not_gone_back_to(bench: Bench) -> None:
    """It stopped after step 6, a bad one, and saved it; after step 7 it goes back to 5 and not to 6."""
    assert bench.losses("stopped")[-5:] == bench.losses("row")[-5:]
    assert equal(bench.adapter("stopped"), bench.adapter("row"))
    assert newest(bench, "stopped")[1]["left_out"] == newest(bench, "row")[1]["left_out"]


def test_the_second_time_the_run_ends_and_says_where(bench: Bench) -> None:
    result = json.loads((bench.run_folder("twice") / "result.json").read_text())
    assert result["code"] == 5
    assert result["sentence"].startswith("step 11: loss nan, gradient norm inf: steps 10 to 11 had no usable loss")
    last = step_items(10, ITEMS, bench.config("dense", global_batch_size=BATCH))
    ids = load_prepared(bench.root / "prepared-twice").train.ids
    assert (
        f"lower train.optim.lr or train.optim.max_grad_norm and submit again, or look at {ids[last[0]]}"
        in result["sentence"]
    )
    step, remembered = newest(bench, "twice")
    assert step == 5 and remembered["left_out"] == newest(bench, "row")[1]["left_out"]


def test_under_zero_3_a_bad_step_changes_no_weight(bench: Bench) -> None:
    assert bench.losses("full")[:5] == bench.losses("shorter") and bench.losses("full")[5:] == [None]
    assert equal(weights(bench, "full"), weights(bench, "shorter"))
    # Offloaded, the norm by which gradients are clipped is summed up in another order.
    assert bench.losses("offloaded")[:5] == pytest.approx(bench.losses("shorter"), rel=1e-6)
    assert bench.losses("offloaded")[5:] == [None]
    for name, value in weights(bench, "offloaded").items():
        torch.testing.assert_close(value, weights(bench, "shorter")[name], rtol=1e-4, atol=1e-5)


def test_a_full_run_goes_back_too(bench: Bench) -> None:
    assert bench.losses("full-row") == bench.losses("shorter"), "steps 6 and 7 are left out"
    assert equal(weights(bench, "full-row"), weights(bench, "shorter"))
    step, remembered = newest(bench, "full-row")
    assert step == 5 and remembered["left_out"] == newest(bench, "row")[1]["left_out"]


def weights(bench: Bench, name: str) -> dict[str, torch.Tensor]:
    return load_file(str(bench.run_folder(name) / "adapter-last" / "model.safetensors"))
