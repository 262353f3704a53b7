"""A run that was killed is submitted again and finds its checkpoints damaged, or its inputs changed."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.tiny import SMALL_VOCABULARY, small_tokenizer, tiny_dense
from tests.training.world import OTHER_WORDS, World, make_world, write_pairs

CONFIG = "killed"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a run that was killed when it had three checkpoints; `killed` has a copy of its folder."""
    with make_world(tmp_path_factory.mktemp("damaged")) as world:
        tokenizer = small_tokenizer(world.root / "tokenizer", [world.data / "train.jsonl"])
        tiny_dense(world.models / "dense", tokenizer=tokenizer, vocabulary=SMALL_VOCABULARY)
        tiny_dense(world.root / "other", seed=1, tokenizer=tokenizer, vocabulary=SMALL_VOCABULARY)
        ops = {"checkpoint": {"every": "2 steps", "keep": 3}, "generate": {"items": 0}}
        world.config(CONFIG, precision="fp32", epochs=10, evaluation={"per_epoch": 1}, ops=ops)
        world.ok("submit", CONFIG, "--local")
        world.until_checkpoint(CONFIG, 6)
        world.kill(CONFIG)
        (world.folder(CONFIG).attempts).unlink()  # or each would wait before it tries again
        shutil.copytree(world.folder(CONFIG).root, world.root / "killed")
        yield world


@pytest.fixture
def found(world: World) -> list[Path]:
    """The checkpoints as the run left them, oldest first."""
    shutil.rmtree(world.folder(CONFIG).root)
    shutil.copytree(world.root / "killed", world.root / ".kctl" / "runs" / world.run_file(CONFIG).run)
    return sorted(world.folder(CONFIG).checkpoints.glob("step-*"))


def damage(path: Path) -> None:
    """A byte in the middle of rank 1's file."""
    file = path / "rank-0001.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_skipped_by_all_ranks(world: World, found: list[Path]) -> None:
    damage(found[-1])
    code, said = world.launch(CONFIG)
    assert code == 0, said
    assert f"damaged checkpoint skipped: {found[-1]}/rank-0001.safetensors: is not what was written (sha256)" in said
    resumed = re.search(r"resumed from step-(\d+)", said)
    assert resumed and int(resumed[1]) == int(found[-2].name[5:])
    steps = [record["step"] for record in world.records(CONFIG) if "loss" in record]
    assert steps == list(range(1, 61)) and world.result(CONFIG)["phase"] == "Succeeded"
    assert not list(world.folder(CONFIG).checkpoints.glob("damaged-*"))


def test_where_all_are_damaged_the_run_does_not_start_again_by_itself(world: World, found: list[Path]) -> None:
    for path in found:
        damage(path)
    for _ in range(2):
        code, said = world.launch(CONFIG)
        assert code == 6, said
        last = said.splitlines()[-1]
        assert re.search(rf"none of {len(found)} checkpoints can be used; .*{found[-1].name}.*train\.revision", last)
        assert "step=" not in said
    assert sorted(world.folder(CONFIG).checkpoints.iterdir()) == found


def test_other_data_under_the_same_path_is_refused(world: World, found: list[Path]) -> None:
    train = world.data / "train.jsonl"
    before = train.read_bytes()
    write_pairs(train, OTHER_WORDS, 24)
    code, said = world.launch(CONFIG)
    train.write_bytes(before)
    last = said.splitlines()[-1]
    assert code == 6 and f"{found[-1]}: was trained on other data than train.data.path holds now" in last, said
    assert "put the old file back, or raise train.revision" in last


def test_another_base_model_under_the_same_path_is_refused(world: World, found: list[Path]) -> None:
    model, kept = world.models / "dense", world.root / "dense"
    model.rename(kept)
    shutil.copytree(world.root / "other", model)
    code, said = world.launch(CONFIG)
    shutil.rmtree(model)
    kept.rename(model)
    last = said.splitlines()[-1]
    assert code == 6 and f"{found[-1]}: was trained on another base model than train.model names now" in last, said
    assert json.loads((world.folder(CONFIG).root / "result.json").read_text())["code"] == 6
