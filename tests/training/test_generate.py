"""`python -m trainer.generate`: prompts of the training, answers that depend on nothing but item, sample and seed."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.training.answering_run import DATA, answering_run
from tests.training.finished_runs import FinishedRun, finished_run, remanifest
from trainer import generate as program
from trainer.after.answering import load_answering
from trainer.after.finished import finished
from trainer.after.sampling import Draw, answers
from trainer.base_model import base_digest
from trainer.dataset.leaderboard import asked, reply
from trainer.dataset.prepare import prepare
from trainer.dataset.prepared import load_prepared
from trainer.dataset.tokenizer import load_tokenizer
from trainer.distributed import Ranks
from trainer.errors import TrainerError
from trainer.generate import Task, generate
from trainer.schema.data import Data
from trainer.schema.sampling import Sampling

CPU = torch.device("cpu")
ONE = Ranks(0, 1, CPU)
SAMPLING = Sampling(samples=3, max_new_tokens=24, temperature=1.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a loaded machine two are many times slower
    yield answering_run(tmp_path_factory.mktemp("generate"))
    torch.set_num_threads(threads)


@pytest.fixture
def see(made: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """The volumes, for this process."""
    for name in ("MODELS", "DATA", "RUNS"):
        monkeypatch.setenv(f"TRAINER_{name}", made.environ[f"TRAINER_{name}"])
    shutil.rmtree(made.folder.generated, ignore_errors=True)
    return made


def task_of(made: FinishedRun, sampling: Sampling = SAMPLING, out: str = "out.json", test: str = "test.json") -> Task:
    run, data = finished(made.run, False), made.root / "data"
    items = asked(run.file.train.data, data, run.base, data / test)
    return Task(run, data / test, made.folder.generated / out, sampling, items, ONE)


def continuations(value: Any) -> list[list[str | None]]:
    collections = [one for row in value for one in row["task"]["task_behavior_collections"]]
    return [item.pop("continuations") for collection in collections for item in collection["data"]]


def test_the_output_is_the_test_file_with_continuations(see: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    task = task_of(see)
    generate(task)
    value = json.loads(task.out.read_text())
    said = continuations(value)
    assert value == json.loads(task.test.read_text())
    assert len(said) == 16 and all(len(one) == 3 for one in said)
    assert said[5] == [None, None, None]  # it spells a control token; the copied item stands before it
    given = [text for one in said for text in one if text is not None]
    assert len(given) > 15 and all(text == text.strip() and "[/ANSWER]" not in text for text in given)
    assert any(len(set(one)) > 1 for one in said) and said[0] != said[3]
    summary = json.loads(task.summary.read_text())
    assert (summary["items"], summary["samples"]) == (16, 48)
    assert sum(summary["failed"].values()) == 48 - len(given)
    assert summary["failed"]["text spells a control token of the tokenizer"] == 3
    assert sorted(path.name for path in task.out.parent.iterdir()) == ["out.json", "out.summary.json"]
    log = capsys.readouterr().out.splitlines()
    assert log[0] == "16 items, 0 answered before, 15 to answer on 1 ranks"
    assert log[-1].startswith(f"done: {task.out}: {len(given)} of 48 samples; ")
    generate(task)
    assert capsys.readouterr().out == f"already there: {task.out}\n"
    with pytest.raises(TrainerError, match="exists, of another adapter, test file or sampling: move it away first"):
        generate(task_of(see, Sampling(samples=2)))


def test_batches_and_seeds(see: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(task_of(see))
    whole = (see.folder.generated / "out.json").read_bytes()
    monkeypatch.setitem(program.SEQUENCES, "cpu", 6)
    generate(task_of(see, out="single.json"))
    assert (see.folder.generated / "single.json").read_bytes() == whole
    generate(task_of(see, SAMPLING.model_copy(update={"seed": 43}), "other.json"))
    assert (see.folder.generated / "other.json").read_bytes() != whole


def test_what_is_answered_is_kept(see: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    generate(task_of(see))
    whole = (see.folder.generated / "out.json").read_bytes()
    task = task_of(see, out="torn.json")
    program._begin(task)
    program._answer(task, [3, 0, 8])
    (kept,) = task.part.glob("*.jsonl")
    with kept.open("a") as file:
        file.write('{"item": 9, "contin')  # a write that was cut
    capsys.readouterr()
    generate(task)
    assert "16 items, 3 answered before, 12 to answer on 1 ranks" in capsys.readouterr().out
    assert task.out.read_bytes() == whole and not task.part.exists()


# --------------------------------------------------------------------------------------------------------------
# what is asked, what is drawn


@pytest.mark.parametrize("blocks", [["context"], ["profile", "history", "context"]])
def test_prompts_are_those_of_the_training(see: FinishedRun, blocks: list[str], tmp_path: Path) -> None:
    for number, name in enumerate(("train.json", "held.json")):
        rows = json.loads((see.root / "data" / name).read_text())
        for row in rows:
            for item in row["task"]["task_behavior_collections"][0]["data"]:
                item["timestamp"] = f"202{number}-01-01"
        (tmp_path / name).write_text(json.dumps(rows))
    data = Data.model_validate({**DATA, "prompt": {"blocks": blocks}, "max_length": 512})
    prepare(data, tmp_path, see.base, tmp_path / "prepared", lambda line: None)
    held = load_prepared(tmp_path / "prepared").validation
    trained = [tuple(tokens[: kinds.index(1) - _frame(kinds)]) for tokens, kinds in _items(held)]
    items = asked(data, tmp_path, see.base, tmp_path / "held.json")
    assert [item.prompt for item in items] == trained and len(trained) == 4
    assert {item.end for item in items} == {list(held.tokens(0))[-1]}
    text = load_tokenizer(see.base).decode(list(items[-1].prompt), skip_special_tokens=False)
    assert text.endswith("<|im_start|>assistant\n") and ("[HISTORY]" in text) == ("history" in blocks)
    untimed = asked(data, see.root / "data", see.base, see.root / "data" / "held.json")
    assert [item.prompt for item in untimed] == trained  # without times, all that is trained was said before


def _items(split: Any) -> Iterator[tuple[list[int], list[int]]]:
    for item in range(len(split)):
        yield list(split.tokens(item)), list(split.kinds(item))


def _frame(kinds: list[int]) -> int:
    """Tokens of the tag that opens the answer."""
    return kinds[: kinds.index(1)].count(2)


def test_greedy_answers_are_those_of_plain_peft(see: FinishedRun) -> None:
    sampling = Sampling(samples=1, temperature=0, repetition_penalty=1, max_new_tokens=16)
    items = [item for item in task_of(see).items if item.prompt][:6]
    model = see.merged_by_peft()
    for item, (ours,) in zip(items, answers(model, items, sampling, CPU), strict=True):
        ids = torch.tensor([item.prompt])
        theirs = model.generate(input_ids=ids, max_new_tokens=16, do_sample=False, eos_token_id=item.end)
        assert ours == theirs[0, len(item.prompt) :].tolist()


def test_a_draw_has_the_chances_of_transformers_processors() -> None:
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)) * 3
    ids = torch.tensor([[7, 7, 3, 9]])
    sampling = Sampling(temperature=0.8, top_k=20, top_p=0.9, repetition_penalty=1.3)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(ids, scores.clone())
    for warper in (TemperatureLogitsWarper(0.8), TopKLogitsWarper(20), TopPLogitsWarper(0.9)):
        expected = warper(ids, expected)
    chances, count = expected.softmax(-1)[0], 20_000
    streams = [random.Random(number) for number in range(count)]
    padding = int(chances.argmax())
    assert padding not in ids
    padded = torch.cat([torch.full((1, 2), padding), ids], 1).expand(count, -1)  # padding is not penalised
    draw = Draw(sampling, torch.full((count,), 2), streams)
    drawn = draw(padded, scores.expand(count, -1)).argmax(-1).bincount(minlength=40) / count
    assert drawn[chances == 0].sum() == 0
    assert (drawn - chances).abs().max() < 0.012


@pytest.mark.parametrize(
    ("text", "ended", "expected"),
    [
        ("[ANSWER]\nyes\n[/ANSWER]", True, "yes"),
        ("[ANSWER]\nyes\n[/ANSWER] and on and on", False, "yes"),
        ("[ANSWER]\nyes, but", False, None),
        ("yes", True, "yes"),
        ("[ANSWER]\n\n[/ANSWER]", True, None),
        ("[ANSWER]\na\n[/ANSWER][ANSWER]\nb\n[/ANSWER]", True, "a"),
        ("", True, None),
    ],
)
def test_what_counts_as_a_reply(text: str, ended: bool, expected: str | None) -> None:
    assert reply(text, ended) == expected


# --------------------------------------------------------------------------------------------------------------
# refusals


def _part_of_another(made: FinishedRun) -> None:
    part = made.folder.generated / ".out.json.part"
    part.mkdir(parents=True)
    (part / "of.json").write_text('{"adapter": "another"}')


def _test_file(text: str) -> Callable[[FinishedRun], None]:
    return lambda made: (made.root / "data" / "bad.json").write_text(text) and None


@pytest.mark.parametrize(
    ("damage", "test", "code", "sentence"),
    [
        (_part_of_another, "test.json", 7, "holds answers of another adapter, test file or sampling: go on with"),
        (lambda made: None, "absent.json", 3, "absent.json: no such file: copy it to the data volume"),
        (_test_file("[]"), "bad.json", 3, "bad.json: holds no items: a test file is a JSON array of users"),
        (_test_file('[{"task": 3}]'), "bad.json", 3, "task must be an object, got a number"),
    ],
)
def test_what_cannot_be_answered(see: FinishedRun, damage: Any, test: str, code: int, sentence: str) -> None:
    damage(see)
    with pytest.raises(TrainerError, match=sentence) as refused:
        generate(task_of(see, test=test))
    assert refused.value.code == code


def test_an_adapter_that_lacks_a_tensor(see: FinishedRun) -> None:
    folder, aside = see.folder.adapter, see.root / "adapter"
    shutil.copytree(folder, aside)
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[min(weights)]
    save_file(weights, folder / "adapter_model.safetensors")
    remanifest(folder)
    try:
        with pytest.raises(TrainerError, match=r"lora_A\.weight is missing") as refused:
            load_answering(finished(see.run, False), CPU)
        assert refused.value.code == 6
    finally:
        shutil.rmtree(folder)
        aside.rename(folder)


def test_a_whole_model_answers(see: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = task_of(see).items
    whole = finished_run(tmp_path / "full", "qwen3", "1MB", see.base, 1024, method="full", lora=None, data=DATA)
    monkeypatch.setenv("TRAINER_MODELS", whole.environ["TRAINER_MODELS"])
    monkeypatch.setenv("TRAINER_RUNS", whole.environ["TRAINER_RUNS"])
    run = finished(whole.run, False)
    model, theirs = load_answering(run, CPU), AutoModelForCausalLM.from_pretrained(whole.folder.adapter)
    ids = torch.arange(9)[None]
    assert torch.equal(model(input_ids=ids).logits, theirs(input_ids=ids).logits)
    task = Task(run, see.root / "data" / "test.json", tmp_path / "out.json", SAMPLING, items, ONE)
    generate(task)
    assert len(continuations(json.loads(task.out.read_text()))) == 16


def test_an_adapter_of_another_base_and_another_format(see: FinishedRun, tmp_path: Path) -> None:
    digest, path = base_digest(see.base), see.folder.adapter / "MANIFEST.json"
    text = path.read_text()
    path.write_text(text.replace(digest, "0" * 64))
    with pytest.raises(TrainerError, match="was trained on other weights"):
        finished(see.run, False)
    path.write_text(text)
    data = Data(path="x", format="messages")
    with pytest.raises(TrainerError, match=r"data\.format is messages: test files are of format chameleons"):
        asked(data, tmp_path, see.base, tmp_path / "x")
