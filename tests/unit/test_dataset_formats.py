"""Reading files: every optional key and every sibling's shape."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.dataset_world import entry, record, write_json, write_lines
from trainer.dataset.chameleons import read_chameleons
from trainer.dataset.conversations import read_messages, read_prompt_completion
from trainer.dataset.items import NO_ANSWER, NO_PROMPT, NOT_ASKED, THINKING, Turn


def test_a_row_of_film_dialogue(tmp_path: Path) -> None:
    talk = entry(
        [("IRIS", " Where? "), ("MARLOW", "There."), ("iris", ""), ("User", "Here."), ("DOC", "Ah.")], " Yes. "
    )
    path = write_json(tmp_path / "a.json", [record("MARLOW", [talk], user_hash="0f3c")])
    (row,) = read_chameleons(path)
    (item,) = row.items
    assert item.turns == (
        Turn("user", "Where?"),
        Turn("assistant", "There."),
        Turn("assistant", "Here."),
        Turn("user", "Ah."),
    )
    assert (item.answer, item.query, item.user.identity, item.flaw) == ("Yes.", "", "0f3c", None)


def test_envelopes_of_the_siblings(tmp_path: Path) -> None:
    first = {"type": "movie_review", "data": [entry([], "Fine.", continuation_prefix="Solaris: ")]}
    second = {"type_desc": "x", "data": [entry([("questionnaire", "Do you like tea?")], "agree")]}
    path = write_json(tmp_path / "one.json", record("HP", [], collections=[first, second, {}]))
    (row,) = read_chameleons(path)
    assert [(item.query, item.answer, item.turns) for item in row.items] == [
        ("Solaris:", "Fine.", ()),
        ("Do you like tea?", "agree", ()),
    ]
    assert row.items[0].user.identity == "HP"
    assert row.items[0].line == "Solaris: Fine."


def test_nothing_but_the_envelope_is_needed(tmp_path: Path) -> None:
    rows = [{}, {"user": None, "task": None}, {"task": {"task_behavior_collections": [{"data": [{}]}, None]}}]
    read = read_chameleons(write_json(tmp_path / "a.json", rows))
    assert [len(row.items) for row in read] == [0, 0, 1]
    assert read[2].items[0].flaw == NO_ANSWER and read[2].items[0].user.identity is None


def test_unusable_items_say_why(tmp_path: Path) -> None:
    items = [entry([("A", "x"), ("user", "y")], "z"), entry([("A", "x")], "  "), entry([], "<think>a</think> b")]
    (row,) = read_chameleons(write_json(tmp_path / "a.json", [record("B", items)]))
    assert [item.flaw for item in row.items] == [NOT_ASKED, NO_ANSWER, THINKING]


STRUCTURED = [
    ({"big_five": {"Openness": 3.67}, "ios": 3}, ["[DIM_BIG_FIVE_OPENNESS=3.67]", "[DIM_IOS=3]"]),
    ({"BFI": {"explanation": "e", "dimensions": {"O": {"score": 4, "description": "d"}}}}, ["[DIM_BFI_O=4]"]),
    ({"BFI": {"dimensions": {"O": 4.5}}}, ["[DIM_BFI_O=4.5]"]),
    ({"BFI": {"O": {"score": "high"}}}, ["[DIM_BFI_O=high]"]),
    ({"BFI.O": {"score": 2}, "BFI.E": 1, "none": None}, ["[DIM_BFI_O=2]", "[DIM_BFI_E=1]"]),
    ({"BFI": {"score": 9}}, ["[DIM_BFI=9]"]),
]


@pytest.mark.parametrize(("structured", "lines"), STRUCTURED)
def test_scores_of_every_shape_reach_the_profile(tmp_path: Path, structured: dict[str, Any], lines: list[str]) -> None:
    personality = {"structured": structured, "unstructured": "prose"}
    row = record("HP", [entry([], "x")], personality=personality)
    (read,) = read_chameleons(write_json(tmp_path / "a.json", [row]))
    assert list(read.items[0].user.tags) == ["[USER_NAME=HP]", *lines]


def test_unknown_profile_keys_become_tags_on_one_line(tmp_path: Path) -> None:
    profile = {
        "life experience": "born\n\nmoved  away",
        "gender": "f",
        "age": 0,
        "pets": ["cat", 2],
        "home": {"city": "X"},
    }
    (row,) = read_chameleons(write_json(tmp_path / "a.json", [record("HP", [entry([], "x")], profile=profile)]))
    assert row.items[0].user.tags == (
        "[USER_NAME=HP]",
        "[USER_GENDER=f]",
        "[USER_LIFE_EXPERIENCE=born moved away]",
        "[USER_PETS=cat, 2]",
        "[USER_HOME_CITY=X]",
    )


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("1970-01-02", 86400.0),
        ("1970-01-01 00:01:00", 60.0),
        ("1970/01/02", 86400.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        (60, 60.0),
        ("soon", None),
        (None, None),
    ],
)
def test_timestamps(tmp_path: Path, timestamp: Any, seconds: float | None) -> None:
    row = record("A", [entry([], "x", timestamp=timestamp)])
    assert read_chameleons(write_json(tmp_path / "a.json", [row]))[0].items[0].time == seconds


def test_chats(tmp_path: Path) -> None:
    def say(*turns: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "content": text} for role, text in turns]

    path = write_lines(
        tmp_path / "a.jsonl",
        [
            {"messages": say(("system", "s"), ("user", "u"), ("assistant", " a "), ("user", "cut")), "user_hash": "h"},
            {"messages": say(("user", "u"))},
            {"messages": say(("assistant", "a"))},
            {"messages": say(("user", "u"), ("assistant", ""), ("user", "v"), ("assistant", "b"))},
        ],
    )
    items = [row.items[0] for row in read_messages(path)]
    assert items[0].turns == (Turn("system", "s"), Turn("user", "u")) and items[0].answer == "a"
    assert [item.flaw for item in items] == [None, "no assistant turn", NO_PROMPT, NO_ANSWER]
    assert [item.user.identity for item in items] == ["h", None, None, None]


def test_prompts_and_completions(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "<think>"},
        {"role": "user", "content": "r"},
    ]
    values = [
        {"prompt": "q", "completion": " a\n"},
        {"prompt": turns, "completion": "b"},
        {"prompt": " ", "completion": "c"},
    ]
    items = [row.items[0] for row in read_prompt_completion(write_lines(tmp_path / "a.jsonl", values))]
    assert [item.flaw for item in items] == [None, None, NO_PROMPT]
    assert items[0].turns == (Turn("user", "q"),) and items[0].answer == "a"
