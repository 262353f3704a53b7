"""The whole preparation, from a file to mapped items: contents, report, errors, growth."""

import errno
import json
import os
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench_dataset import write_chameleons
from tests.unit.dataset_world import entry, load_model, record, write_json, write_lines, write_model
from trainer.dataset.items import NO_ANSWER, NOT_ASKED
from trainer.dataset.prepare import prepare
from trainer.dataset.prepared import KIND_ANSWER, KIND_CONTEXT, Items, ItemsWriter, Prepared, load_prepared, show_item
from trainer.dataset.report import Report
from trainer.dataset.splitting import COPY
from trainer.errors import ConfigError, DataError, RunsFolderError
from trainer.schema.data import Data


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def run(root: Path, model: Path, **fields: Any) -> Prepared:
    data = Data.model_validate({"path": "train.json", "format": "chameleons", **fields})
    said: list[str] = []
    report = prepare(data, root, model, root / "prepared", said.append)
    prepared = load_prepared(root / "prepared")
    assert prepared.report == report and said
    return prepared


def own_text(items: Items, index: int, model: Path) -> str:
    kinds = items.kinds(index).tolist()
    tokens = [token for token, kind in zip(items.tokens(index).tolist(), kinds, strict=True) if kind == KIND_ANSWER]
    return str(load_model(model)[0].decode(tokens, skip_special_tokens=False))


def test_from_a_file_to_items(tmp_path: Path, model: Path) -> None:
    good = [entry([("IRIS", f"Question {number}?")], f"Answer {number}.") for number in range(20)]
    bad = [entry([("IRIS", "x")], ""), entry([("IRIS", "x"), ("MARLOW", "y")], "z")]
    write_json(tmp_path / "train.json", [record("MARLOW", good + bad), record("ALEC", [good[0]])])
    prepared = run(tmp_path, model, validation={"ratio": 0.3})
    train, held, report = prepared.train, prepared.validation, prepared.report
    answers = [own_text(items, index, model) for items in (train, held) for index in range(len(items))]
    assert sorted(answers) == sorted([f"Answer {number}." for number in range(20)] + ["Answer 0."])
    assert len(set(train.ids + held.ids)) == 21
    assert train.tokens(0).format == "i" and train.kinds(0).format == "B"
    for items in (train, held):
        for index in range(len(items)):
            kinds = items.kinds(index).tolist()
            assert items.length(index) == len(kinds) == len(items.tokens(index))
            assert items.kept(index) == len(kinds) - kinds.count(KIND_CONTEXT) > 0
    assert (report.rows, report.users, report.items_read, report.items) == (2, 2, 23, 23)
    assert (report.train, report.validation) == (len(train), len(held)) and 2 <= len(held) <= 10
    assert report.dropped == {NOT_ASKED: 1, NO_ANSWER: 1}
    assert report.tokens == sum(train.length(index) for index in range(len(train)))
    assert report.trained_tokens == sum(train.kept(index) for index in range(len(train)))
    assert sum(report.lengths.values()) == len(train)
    assert Report.from_json(report.to_json()) == report
    assert len(report.lines()) <= 20
    assert (tmp_path / "prepared").stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_show_item_marks_what_is_trained(tmp_path: Path, model: Path) -> None:
    write_json(tmp_path / "train.json", [record("MARLOW", [entry([("IRIS", "Where?")], "Here, caf\u00e9.")])])
    prepared = run(tmp_path, model)
    shown = show_item(prepared.train, 0, model)
    assert "User: Where?" in shown
    end = "<<frame|[ANSWER]\n>><<answer|Here, caf\u00e9.>><<frame|\n[/ANSWER]<|im_end|>>>"
    assert shown.endswith(f"<|im_start|>assistant\n{end}")


def test_no_held_out_items_map_as_well(tmp_path: Path, model: Path) -> None:
    write_json(tmp_path / "train.json", [record("MARLOW", [entry([("IRIS", "Where?")], "Here.")])])
    prepared = run(tmp_path, model)
    assert len(prepared.validation) == 0 and prepared.validation.ids == [] and prepared.report.validation_ratio == 0


def test_a_validation_file_of_its_own(tmp_path: Path, model: Path) -> None:
    items = [entry([("IRIS", f"Question {number}?")], f"Answer {number}.") for number in range(6)]
    seen = entry([("IRIS", "Really?")], "Question 1?")
    write_json(tmp_path / "train.json", [record("MARLOW", items)])
    write_json(tmp_path / "held.json", [record("MARLOW", [seen, items[2], entry([], "New.")])])
    prepared = run(tmp_path, model, validation={"path": "held.json"}, sample={"max": 5, "per": "row"})
    assert len(prepared.train) == 5 and prepared.report.items == 8
    answers = {own_text(prepared.validation, index, model) for index in range(len(prepared.validation))}
    assert answers >= {"Question 1?", "New."}
    trained = {own_text(prepared.train, index, model) for index in range(5)}
    assert (COPY in prepared.report.dropped) == ("Answer 2." in trained)
    assert prepared.report.seen_validation_answers == 1


def test_copies_have_names_of_their_own(tmp_path: Path, model: Path) -> None:
    same = entry([("IRIS", "Where?")], "Here.")
    write_json(tmp_path / "train.json", [record("MARLOW", [same, same, same])])
    prepared = run(tmp_path, model)
    first = prepared.train.ids[0]
    assert prepared.train.ids == [first, f"{first}-2", f"{first}-3"]
    assert prepared.report.repeated_answers == 2


def test_chats_and_completions(tmp_path: Path, model: Path) -> None:
    def chat(number: int) -> dict[str, Any]:
        texts = [("user", "Hi?"), ("assistant", f"Ho {number}."), ("user", "Well?"), ("assistant", "Well.")]
        return {"messages": [{"role": role, "content": text} for role, text in texts]}

    write_lines(tmp_path / "chat.jsonl", [chat(number) for number in range(30)])
    prepared = run(tmp_path, model, path="chat.jsonl", format="messages")
    assert own_text(prepared.train, 0, model).endswith("Well.") and "Ho" in own_text(prepared.train, 0, model)
    assert 1 <= len(prepared.validation) <= 9 and prepared.report.users == 30
    (tmp_path / "other").mkdir()
    write_lines(
        tmp_path / "other" / "a.jsonl", [{"prompt": f"{number}?", "completion": f"{number}."} for number in (1, 2)]
    )
    prepared = run(tmp_path / "other", model, path="a.jsonl", format="prompt_completion")
    assert {own_text(prepared.train, 0, model), own_text(prepared.validation, 0, model)} == {"1.", "2."}


def test_the_same_twice(tmp_path: Path, model: Path) -> None:
    write_chameleons(tmp_path / "train.json", 60)
    data = Data.model_validate(
        {"path": "train.json", "format": "chameleons", "prompt": {"blocks": ["history", "context"]}, "max_length": 900}
    )
    for name in ("one", "two"):
        prepare(data, tmp_path, model, tmp_path / name, print)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


BAD_FILES = [
    (b"", "the file is empty"),
    (b"[]", "holds no items"),
    (b"[{}, {}]", "holds no items"),
    (b"17", "got a number"),
    (b'[{"user', "line 1, byte"),
]


@pytest.mark.parametrize(("content", "problem"), BAD_FILES)
def test_bad_data_leaves_nothing_behind(tmp_path: Path, model: Path, content: bytes, problem: str) -> None:
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(DataError, match=problem):
        run(tmp_path, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "train.json"]


def test_everything_dropped_is_an_error_that_says_why(tmp_path: Path, model: Path) -> None:
    long = [entry([("IRIS", "x")], f"{number} word " * 400) for number in range(3)]
    write_json(tmp_path / "train.json", [record("MARLOW", [*long, entry([("IRIS", "x")], "")])])
    with pytest.raises(DataError, match=r"nothing is left to train on .3 does not fit max_length, 1 empty answer"):
        run(tmp_path, model)
    assert not (tmp_path / "prepared").exists() and not list(tmp_path.glob(".*"))


def test_existing_output_is_kept(tmp_path: Path, model: Path) -> None:
    (tmp_path / "prepared").mkdir()
    with pytest.raises(DataError, match="exists already"):
        run(tmp_path, model)


def test_model_folders_that_cannot_serve(tmp_path: Path) -> None:
    write_json(tmp_path / "train.json", [record("MARLOW", [entry([("IRIS", "x")], "y")])])
    for name, damage, problem in (
        ("no-tokenizer", lambda folder: (folder / "tokenizer.json").unlink(), "no such file"),
        ("cut", lambda folder: (folder / "tokenizer.json").write_text('{"version"'), "damaged"),
        ("no-template", lambda folder: (folder / "tokenizer_config.json").write_text("{}"), "no chat template"),
        ("list", lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "must hold a JSON object"),
        ("syntax", lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"), "cannot be used"),
        ("mute", lambda folder: (folder / "chat_template.jinja").write_text("hello"), "leaves out the assistant"),
    ):
        folder = write_model(tmp_path / name)
        damage(folder)
        with pytest.raises(ConfigError, match=problem):
            run(tmp_path, folder)


def test_a_full_disk_is_said(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "train.json", [record("MARLOW", [entry([("IRIS", "x")], "y")])])

    def full(self: ItemsWriter, name: str, tokens: "array[int]", kinds: bytes, user: str | None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ItemsWriter, "add", full)
    with pytest.raises(RunsFolderError, match="No space left on device"):
        run(tmp_path, model)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "file", ["report.json", "train/ids.json", "train/tokens.bin", "validation/starts.bin", "train/users.bin"]
)
def test_damaged_folders_are_refused(tmp_path: Path, model: Path, file: str) -> None:
    write_json(tmp_path / "train.json", [record("M", [entry([("IRIS", "x")], f"y{number}") for number in range(9)])])
    run(tmp_path, model)
    for content in (b"", b"abc", (tmp_path / "prepared" / file).read_bytes()[:-8], None):
        path = tmp_path / "prepared" / file
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(DataError, match="delete the folder"):
            load_prepared(tmp_path / "prepared")


def test_report_lines_stay_few() -> None:
    reasons = {f"reason {number}": number for number in range(40)}
    numbers: dict[str, Any] = {name: 1 for name in Report.__annotations__}
    report = Report(**{**numbers, "dropped": reasons, "lengths": {"<=64": 3}, "padding_share": 0.25})
    assert len(report.lines()) <= 20 and report.lines()[-1].startswith("only the last answer")


def test_time_grows_with_the_items(tmp_path: Path, qwen3_folder: Path) -> None:
    seconds = []
    for items in (400, 4000):
        write_chameleons(tmp_path / f"{items}.json", items)
        data = Data.model_validate(
            {"path": f"{items}.json", "format": "chameleons", "prompt": {"blocks": ["history", "context"]}}
        )
        start = time.process_time()
        prepare(data, tmp_path, qwen3_folder, tmp_path / f"out-{items}", print)
        seconds.append(time.process_time() - start)
    assert seconds[1] / seconds[0] < 12


def test_one_user_with_everything_costs_no_more(tmp_path: Path, model: Path) -> None:
    def cost(items: Sequence[dict[str, Any]], name: str) -> float:
        write_json(tmp_path / f"{name}.json", [record("MARLOW", items)])
        data = Data.model_validate({"path": f"{name}.json", "format": "chameleons", "prompt": {"blocks": ["history"]}})
        start = time.process_time()
        prepare(data, tmp_path, model, tmp_path / name, print)
        return time.process_time() - start

    few = cost([entry([("IRIS", "x")], "yes" if n % 2 else f"no {n}") for n in range(200)], "few")
    many = cost([entry([("IRIS", "x")], "yes" if n % 2 else f"no {n}") for n in range(2000)], "many")
    assert many / few < 15
    assert json.loads((tmp_path / "many" / "report.json").read_text())["train"] > 1500
