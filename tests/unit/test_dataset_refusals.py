"""Bad input with its place, and parsers that raise nothing but DataError whatever they are given."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.dataset_world import entry, record
from trainer.dataset.chameleons import read_chameleons
from trainer.dataset.conversations import read_messages, read_prompt_completion
from trainer.errors import DataError

READERS = (read_chameleons, read_messages, read_prompt_completion)

BAD_ARRAYS = [
    (b"", "the file is empty"),
    (b" \n ", "the file is empty"),
    (b"42", "expected a JSON array of rows, got a number"),
    (b'[\n{"user": 1}\n]', "row 1 (line 2, byte 2): user must be an object, got a number"),
    (b'[{}, {"a": "b', "the file ends inside this row"),
    (b"[{},", "the file ends inside this row"),
    (b"[{}", "the file ends inside the array"),
    (b"[{}] x", "text after the end"),
    (b"[{}\n\n{}]", "row 1 (line 3, byte 5): expected ',' or ']'"),
    (b"[{'a': 1}]", "row 1 (line 1, byte 2): not valid JSON"),
    (b'[{}, "\xff"]', "line 1, byte 6: not valid UTF-8"),
    (b"[" + b"[" * 100_000, "nested too deep"),
    (b"[1]", "row 1 (line 1, byte 1): a row must be an object, got a number"),
    (b"[" + b"1" * 5000 + b"]", "row 1 (line 1, byte 1): "),
]


@pytest.mark.parametrize(("content", "problem"), BAD_ARRAYS, ids=range(len(BAD_ARRAYS)))
def test_a_bad_array_is_refused_with_its_place(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        read_chameleons(path)
    assert problem in str(refused.value) and str(path) in str(refused.value)


def test_depth_that_json_allows_and_we_do_not(tmp_path: Path) -> None:
    for depth in range(300, 1000, 20):
        path = tmp_path / "deep.json"
        path.write_text('{"user": {"profile": {"a": ' + '{"b": ' * depth + "1" + "}" * depth + "}}}")
        try:
            assert len(read_chameleons(path)) == 1
        except DataError as error:
            assert "nested too deep" in str(error)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"continuation": None}, "item 2: continuation must be a string, got null"),
        ({"continuation": 5.0}, "item 2: continuation must be a string, got a number"),
        ({"context": [{"source": "A", "content": None}]}, "item 2: context[0].content must be a string, got null"),
        ({"context": {}}, "item 2: context must be a list, got an object"),
        ({"context": ["hi"]}, "item 2: context[0] must be an object, got a string"),
        ({"continuation": "\ud83d"}, "item 2: continuation holds half a surrogate pair"),
        ([], "item 2: must be an object, got a list"),
    ],
)
def test_a_bad_item_is_refused_with_its_place(tmp_path: Path, item: Any, problem: str) -> None:
    path = tmp_path / "a.json"
    rows = [record("A", [entry([], "\u4f60")]), record("B", [entry([], "x"), item])]
    path.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=True) for row in rows) + "\n]")
    with pytest.raises(DataError) as refused:
        read_chameleons(path)
    first = len(json.dumps(rows[0]))
    assert f"row 2 (line 3, byte {2 + first + 2}), {problem}" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b'{"messages": []}\n\n3\n', "row 2 (line 3, byte 18): a line must be an object, got a number"),
        (b'{}\n{"messages": [', "line 1"),
        (b'{"messages": []}\n{"messages": [', "line 2, byte 31: not valid JSON"),
        (b'{"messages": []}\n{"a": "\xe4"}', "line 2, byte 24: not valid UTF-8"),
        (b'{"messages": [{"role": "user", "content": null}]}', "messages[0].content must be a string, got null"),
        (b'{"messages": [{"role": "bot", "content": ""}]}', "messages[0].role must be one of"),
        (b"[" * 100_000, "line 1, byte 0: nested too deep"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        read_messages(path)
    assert problem in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for reader in READERS:
        with pytest.raises(DataError, match="no such file"):
            reader(tmp_path / "no.json")
        with pytest.raises(DataError, match="cannot be read: Is a directory"):
            reader(tmp_path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[{}]")
    assert len(read_chameleons(path)) == 1
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}')
    assert len(read_prompt_completion(path)) == 1


KEYS = [
    "user_hash",
    "user",
    "profile",
    "name",
    "personality",
    "structured",
    "task",
    "task_behavior_collections",
    "data",
    "context",
    "source",
    "content",
    "continuation",
    "continuation_prefix",
    "timestamp",
    "messages",
    "role",
    "prompt",
    "completion",
    "score",
    "dimensions",
]
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["user", "tool"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


def near(value: Any) -> Any:
    """An almost valid row with something odd in it."""
    item = {"context": [{"source": "A", "content": value}], "continuation": "x", "timestamp": value}
    return {
        "user": {"profile": {"name": "A", "odd": value}, "personality": {"structured": {"S": value}}},
        "task": {"task_behavior_collections": [{"data": [item]}]},
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": value}],
        "prompt": value,
        "completion": "b",
    }


@settings(max_examples=300, deadline=None)
@given(value=VALUES | VALUES.map(near), cut=st.none() | st.integers(0, 400), lines=st.booleans())
def test_parsers_raise_nothing_but_data_errors(
    tmp_path_factory: pytest.TempPathFactory, value: Any, cut: int | None, lines: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.json"
    path.write_bytes(json.dumps(value if lines else [value, value], indent=None if lines else 1).encode()[:cut])
    for reader in READERS:
        try:
            reader(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=40))
def test_parsers_survive_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    for reader in READERS:
        try:
            reader(path)
        except DataError as error:
            assert str(path) in str(error)
