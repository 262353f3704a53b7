"""Files of data read in little memory, drawn from, converted and checked."""

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bench_dataset import write_chameleons
from tests.unit.dataset_world import entry, record, write_json, write_lines
from trainer.dataset.chameleons import read_chameleons
from trainer.dataset.checking import findings
from trainer.dataset.conversations import read_messages, read_prompt_completion
from trainer.dataset.convert import PARTS, convert
from trainer.dataset.formats import Format, format_of
from trainer.dataset.items import Item, Row
from trainer.dataset.json_array import json_rows
from trainer.dataset.sampling import sample_items
from trainer.dataset.subset import Counts, Draw, write_sample
from trainer.errors import DataError
from trainer.schema.data import Sample

READERS = {"chameleons": read_chameleons, "messages": read_messages, "prompt_completion": read_prompt_completion}
FILES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def quiet(done: int) -> None:
    pass


@FILES
@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_the_same_wherever_reading_stops(
    tmp_path: Path, rows: list[Any], block: int, indent: int | None, plain: bool
) -> None:
    path = tmp_path / "a.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=plain)
    path.write_bytes(text.encode("utf-8", "surrogatepass") if plain else text.encode("utf-8", "replace"))
    raw = path.read_bytes()
    read = list(json_rows(path, block))
    assert [value for _, value in read] == json.loads(raw)
    for place, value in read:
        assert json.JSONDecoder().raw_decode(raw[place.byte :].decode())[0] == value
        assert place.line == raw[: place.byte].count(b"\n") + 1


@FILES
@given(st.binary(max_size=30) | st.text('[]{},:"\\1tru \n', max_size=12).map(str.encode), st.integers(1, 9))
def test_what_is_no_array_is_refused_alike_wherever_reading_stops(tmp_path: Path, raw: bytes, block: int) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[{}, " + raw)

    def said(size: int) -> tuple[int, str]:
        read = 0
        try:
            for _ in json_rows(path, size):
                read += 1
        except DataError as error:
            return read, str(error)
        return read, ""

    whole = said(1 << 20)
    if "UTF-8" in whole[1]:  # found before the rows in front of it are looked at
        assert said(block)[1]
    else:
        assert said(block) == whole


def keys(items: list[Item]) -> Counter[str]:
    return Counter(item.key for item in items)


def all_items(rows: list[Row]) -> list[Item]:
    return [item for row in rows for item in row.items]


SAMPLES = [("item", "row"), ("item", "user"), ("row", "user")]


@pytest.mark.parametrize(("unit", "per"), SAMPLES)
@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_sampled_file_is_what_a_run_would_have_drawn(tmp_path: Path, unit: Any, per: Any, most: int) -> None:
    path, out = tmp_path / "a.json", tmp_path / "deep" / "b.json"
    write_chameleons(path, 300)
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, {"user": None}, *rows[:4]]))  # an empty row, and rows that stand twice
    sample = Sample(unit=unit, max=most, per=per, seed=7)
    before, after = write_sample(path, out, "chameleons", Draw(sample), quiet)
    chosen = sample_items(read_chameleons(path), sample)
    written = all_items(read_chameleons(out))
    assert keys(written) == keys(chosen)
    whole = all_items(read_chameleons(path))
    following = iter(item.key for item in whole)
    assert all(item.key in following for item in written)  # the order of the file
    assert (after.items, after.users) == (len(chosen), len({item.user.identity for item in chosen}))
    assert (before.items, before.rows) == (len(whole), len(rows) + 4)
    assert [file.name for file in out.parent.iterdir()] == ["b.json"]


def test_a_sample_keeps_collections_and_every_other_key(tmp_path: Path) -> None:
    parts = [
        {"type": "dialogue", "type_desc": "x", "data": [entry([], f"a{n}") for n in range(3)]},
        None,
        {"type": "movie_review", "data": None},
        {"type": "movie_review", "data": [entry([], f"b{n}") for n in range(3)]},
    ]
    row = record("A", [], collections=parts, user_hash="77", source={"year": 1.50})
    path, out = write_json(tmp_path / "a.json", [row]), tmp_path / "b.json"
    write_sample(path, out, "chameleons", Draw(Sample(unit="item", max=2, per="row", seed=3)), quiet)
    (written,) = json.loads(out.read_text())
    kept = [item for group in written["task"]["task_behavior_collections"] for item in group["data"]]
    drawn = random.Random(3).sample([item for group in parts if group for item in group["data"] or []], 2)
    assert sorted(kept, key=str) == sorted(drawn, key=str)
    written["task"]["task_behavior_collections"] = parts
    assert written == row


def test_lines_are_drawn_from_by_user(tmp_path: Path) -> None:
    lines = [{"prompt": "a", "completion": str(n), "user_hash": str(n % 3)} for n in range(30)]
    path, out = write_lines(tmp_path / "a.jsonl", lines), tmp_path / "b.jsonl"
    _, after = write_sample(path, out, "prompt_completion", Draw(Sample(max=2)), quiet)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert after.items == 6 and Counter(line["user_hash"] for line in written) == {"0": 2, "1": 2, "2": 2}
    assert [line for line in lines if line in written] == written


@pytest.mark.parametrize("unit", ["item", "row"])
def test_so_many_of_a_whole_file_whatever_its_order(tmp_path: Path, unit: Any) -> None:
    path, drawn = tmp_path / "a.json", []
    write_chameleons(path, 200)
    rows = json.loads(path.read_text())
    for turned, seed in ((rows, 1), (rows[::-1], 1), (rows, 2)):
        write_json(path, turned)
        draw = Draw(Sample(unit=unit, max=7, per="user", seed=seed), whole=True)
        out = tmp_path / f"{len(drawn)}.json"
        _, after = write_sample(path, out, "chameleons", draw, quiet)
        assert (after.items if unit == "item" else after.rows) == 7
        drawn.append(keys(all_items(read_chameleons(out))))
    assert drawn[0] == drawn[1] != drawn[2]


def test_nothing_is_left_where_reading_fails(tmp_path: Path) -> None:
    path, out = tmp_path / "a.json", tmp_path / "b.json"
    path.write_text(json.dumps([record("A", [entry([], "x")])])[:-1] + ", 3]")
    with pytest.raises(DataError, match="row 2"):
        write_sample(path, out, "chameleons", Draw(Sample(max=2, per="row")), quiet)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


TURN = st.builds(
    lambda role, text: {"role": role, "content": text},
    st.sampled_from(["system", "user", "assistant"]),
    st.sampled_from(["Hi.", " Hi. ", "", "Where?", "<think>"]),
)
LINES = {
    "messages": st.fixed_dictionaries(
        {"messages": st.lists(TURN, max_size=4)}, optional={"user_hash": st.sampled_from("ab")}
    ),
    "prompt_completion": st.fixed_dictionaries(
        {
            "prompt": st.lists(TURN, max_size=3) | st.sampled_from(["", "Who?"]),
            "completion": st.sampled_from(["", "I. "]),
        },
        optional={"user_hash": st.sampled_from("ab")},
    ),
}


def trained(item: Item, data_format: str) -> list[str]:
    turns = [turn.text for turn in item.turns if turn.role == "assistant"] if data_format == "messages" else []
    return [*turns, item.answer]


@FILES
@given(st.data(), st.sampled_from(["messages", "prompt_completion"]), st.sampled_from(sorted(READERS)))
def test_what_is_converted_is_the_same_item(tmp_path: Path, data: Any, source: Format, target: Format) -> None:
    if source == target:
        return
    path, out = tmp_path / "a.jsonl", tmp_path / "out"
    out.unlink(missing_ok=True)
    write_lines(path, data.draw(st.lists(LINES[source], min_size=1, max_size=4)))
    items = all_items(READERS[source](path))
    try:
        done = convert(path, source, out, target, (), quiet)
    except DataError as error:
        assert "--without items" in str(error) and not out.exists()
        done = convert(path, source, out, target, ("items",), quiet)
        assert done.left_out["items"] == len(items) - done.items > 0
    else:
        assert done.items == len(items)
    if not done.items:
        return
    read = all_items(READERS[target](out))
    assert len(read) == done.items and {item.key for item in read} <= {item.key for item in items}
    by_key = {item.key: item for item in items}
    for item in read:
        assert bool(item.flaw) == bool(by_key[item.key].flaw), "only messages can lack the turn itself"
        assert item.user == by_key[item.key].user
        assert trained(item, target) == trained(by_key[item.key], source)


CHAMELEONS = [
    (record("A", [entry([("B", "Hm?")], "Yes.")], user_hash="7"), "profile"),
    ({"user_hash": "7", "task": record("A", [entry([("B", "Hm?")], "x")] * 2)["task"]}, "rows"),
    ({"user_hash": "7", "task": record("A", [entry([("B", "Hm?")], "x", timestamp="2020-01-01")])["task"]}, "time"),
    (
        {"user_hash": "7", "task": record("A", [entry([("B", "Hm?")], "x", continuation_prefix="Film:")])["task"]},
        "query",
    ),
    ({"user_hash": "7", "task": record("A", [entry([], "x")])["task"]}, "items"),
]


@pytest.mark.parametrize(("row", "part"), CHAMELEONS, ids=[part for _, part in CHAMELEONS])
def test_what_another_format_has_no_place_for_is_refused_by_name(tmp_path: Path, row: Any, part: Any) -> None:
    path, out = write_json(tmp_path / "a.json", [row]), tmp_path / "b.jsonl"
    with pytest.raises(DataError, match=re.escape("row 1 (line 1, byte 1)") + f".*--without {part}"):
        convert(path, "chameleons", out, "prompt_completion", [other for other in PARTS if other != part], quiet)
    assert not out.exists()
    done = convert(path, "chameleons", out, "prompt_completion", [part], quiet)
    assert done.left_out == {part: 1}
    if part != "items":
        (read, *_), (item, *_) = all_items(read_prompt_completion(out)), all_items(read_chameleons(path))
        assert (read.turns, read.answer, read.user.identity) == (item.turns, item.answer, "7")


def test_every_flaw_is_found(tmp_path: Path) -> None:
    rows = [
        record("A", [entry([], "x"), {"continuation": 3}, entry([], ""), {"context": 1}, entry([("A", "y")], "x")]),
        7,
        {"user": []},
        record("B", [entry([], "x")]),
    ]
    path = tmp_path / "a.json"
    path.write_text("[" + ",\n".join(json.dumps(row) for row in rows) + "\n x]")
    counts = Counts()
    found = list(findings(path, "chameleons", counts, quiet))
    places = [re.sub(r"byte \d+", "byte _", one.text.removeprefix(f"{path}: ")) for one in found if one.ends_run]
    assert places == [
        "row 1 (line 1, byte _), item 2: continuation must be a string, got a number",
        "row 1 (line 1, byte _), item 4: context must be a list, got a number",
        "row 2 (line 2, byte _): a row must be an object, got a number",
        "row 3 (line 3, byte _): user must be an object, got a list",
        "row 4 (line 5, byte _): expected ',' or ']' after the row",
    ]
    left_out = [one.text.partition(", item ")[2] for one in found if not one.ends_run]
    assert left_out == ["3: empty answer", "5: context does not end with the interlocutor"]
    assert (counts.rows, counts.users) == (2, 2)


def test_every_bad_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"prompt": "a", "completion": "b"}\n{\n\xff\n\n{"prompt": 1}\n{"prompt": "a", "completion": ""}\n'
    )
    found = list(findings(path, "prompt_completion", Counts(), quiet))
    assert [re.search(r"line (\d)", one.text)[1] for one in found if one.ends_run] == ["2", "3", "5"]  # type: ignore[index]
    assert [one.text for one in found if not one.ends_run] == [f"{path}: row 5 (line 6, byte 54): empty answer"]
    (nothing,) = findings(write_json(tmp_path / "b.json", [{}]), "chameleons", Counts(), quiet)
    assert nothing.ends_run and "holds no items of format chameleons" in nothing.text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b" \n[{}]", "chameleons"),
        (b'\xef\xbb\xbf{"task": {}}', "chameleons"),
        (b'{"messages": []}\n{"x": 1}', "messages"),
        (b'{"completion": "x"}\n', "prompt_completion"),
        (b'{"text": "x"}\n', None),
        (b"", None),
        (b'{"messages"', None),
    ],
)
def test_the_format_of_a_file(tmp_path: Path, content: bytes, expected: str | None) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    if expected is None:
        with pytest.raises(DataError):
            format_of(path)
    else:
        assert format_of(path) == expected
