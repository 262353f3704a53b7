"""The YAML reader: what it refuses, what it reads differently from YAML 1.1, and that nothing else comes out of it."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.config.yaml_reader import MAX_BYTES, parse_yaml, read_yaml
from kctl.errors import NotFound, UsageError
from kctl.manifest.render import scalar, to_yaml

JSON_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
)
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
JSON_VALUES = st.recursive(
    JSON_SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2.0e-4", 2e-4),
        ("5E3", 5000.0),
        (".5", 0.5),
        ("-3", -3),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("'1'", "1"),
        ("15 min", "15 min"),
    ],
)
def test_scalars_mean_what_people_mean(text: str, value: object) -> None:
    read = parse_yaml(f"a: {text}", "x.yaml")["a"]
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a: 1\nb: 2\na: 3\n", "x.yaml:3:1: duplicate key 'a'"),
        (b"a:\n  b: 1\n  b: 2\n", "x.yaml:3:3: duplicate key 'b'"),
        (b"a: !!int 3", "x.yaml:1:4: tag"),
        (b"a: !!python/object/apply:os.system [true]", "tags are not supported"),
        (b"<<: {a: 1}", "use extends"),
        (b"---\na: 1\n---\nb: 2\n", "x.yaml:3:1: a second document"),
        (b"a: [1, 2", "x.yaml:2:1: did not find"),
        (b"a: 'x", "x.yaml:"),
        (b"a: \xff\n", "x.yaml:1: not UTF-8 at byte 3"),
        (b"a: \x00\n", "control character"),
        (b"[" * 50, "nested deeper"),
        (b"- " * 50, "nested deeper"),
        (b"a: &a [*a]", "has no anchor"),
        (b"? [a]\n: 1", "a key must be plain text"),
        (b"a: " + b"x" * MAX_BYTES, "larger than"),
    ],
)
def test_refusals_say_where(data: bytes, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_yaml(data, "x.yaml")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_alias_expansion_is_bounded() -> None:
    lines = ["a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(UsageError, match="once aliases are expanded"):
        parse_yaml("\n".join(lines), "x.yaml")
    deep = [f"b{i}: &a{i} {'[' * 9}*a{i - 1}{']' * 9}" for i in range(1, 9)]
    with pytest.raises(UsageError, match="nested deeper"):
        parse_yaml("\n".join(["a: &a0 [1]", *deep]), "x.yaml")
    assert parse_yaml("a: &x [1, 2]\nb: *x", "x.yaml") == {"a": [1, 2], "b": [1, 2]}


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200) | st.text("[]{}:,&*!|>'\"%@#-?\n a1", max_size=60))
def test_anything_at_all_is_a_value_or_a_usage_error(data: bytes | str) -> None:
    try:
        parse_yaml(data, "x.yaml")
    except UsageError as error:
        assert "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES)
def test_what_a_template_writes_is_read_back(value: object) -> None:
    assert parse_yaml(f"a: {scalar(value)}", "x.yaml") == {"a": value}


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, JSON_VALUES, max_size=4))
def test_what_is_printed_means_the_same_to_yaml_1_1(manifest: dict[str, object]) -> None:
    text = to_yaml([manifest])
    assert yaml.safe_load(text) == manifest
    if all(key != "<<" for key in manifest) and '"<<":' not in json.dumps(manifest):
        assert parse_yaml(text, "x.yaml") == manifest


@pytest.mark.parametrize(
    "word", ["1e-4", "on", "Yes", "n", "0x1f", "1_0", "1:30", "010", ".inf", "=", "null", "2024-01-01"]
)
def test_words_that_other_parsers_misread_are_quoted(word: str) -> None:
    assert f'"{word}"' in to_yaml([{"a": word}])
