"""Test files: items are counted as the reader counts them, whatever shape the envelope has; replies between tags."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.dataset.chameleons import read_chameleons
from trainer.dataset.leaderboard import reply, with_continuations

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="[]"), max_size=30)
ITEMS = st.fixed_dictionaries(
    {}, optional={"context": st.just([]) | st.none(), "continuation": TEXTS, "continuation_prefix": TEXTS}
)
COLLECTIONS = st.fixed_dictionaries({}, optional={"data": st.none() | st.lists(ITEMS, max_size=3), "type": TEXTS})
TASKS = st.none() | st.fixed_dictionaries(
    {}, optional={"task_behavior_collections": st.none() | st.lists(COLLECTIONS, max_size=3), "description": TEXTS}
)
ROWS = st.lists(st.fixed_dictionaries({}, optional={"task": TASKS, "user_hash": TEXTS, "more": TEXTS}), max_size=4)


def _without(value: Any) -> Any:
    """The file without what was added, item by item, and the additions."""
    said = []
    for row in value:
        for collection in (row.get("task") or {}).get("task_behavior_collections") or []:
            said += [item.pop("continuations") for item in collection.get("data") or []]
    return value, said


@given(ROWS)
@settings(deadline=None, max_examples=60)
def test_every_item_gets_its_own_and_nothing_else_changes(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.json"
        path.write_text(json.dumps(rows))
        count = sum(len(row.items) for row in read_chameleons(path))
        value = json.loads(with_continuations(path, {number: [str(number), None] for number in range(count)}))
    assert _without(value) == (rows, [[str(number), None] for number in range(count)])


def test_one_object_stays_one_object(tmp_path: Path) -> None:
    row = {"task": {"task_behavior_collections": [{"data": [{"context": []}]}]}}
    path = tmp_path / "test.json"
    path.write_text("\ufeff" + json.dumps(row), encoding="utf-8")
    item = json.loads(with_continuations(path, {0: ["a"]}))["task"]["task_behavior_collections"][0]["data"][0]
    assert item == {"context": [], "continuations": ["a"]}


@given(TEXTS, TEXTS, TEXTS, st.booleans())
def test_a_reply_is_what_stands_between_the_tags(before: str, text: str, after: str, ended: bool) -> None:
    assert reply(f"{before}[ANSWER]\n{text}\n[/ANSWER]{after}", ended) == (text.strip() or None)
    assert reply(text, True) == (text.strip() or None) and reply(text, False) is None
