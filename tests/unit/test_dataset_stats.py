"""Statistics of a file: equal to what training counts, however the file is read, and to what is plain to see."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.bench_dataset import write_chameleons
from tests.unit.dataset_world import entry, record, write_json, write_lines, write_model
from trainer.dataset.blocks import blocks
from trainer.dataset.measuring import Pool, measure
from trainer.dataset.prepare import prepare
from trainer.dataset.ruler import How
from trainer.dataset.stats import Stats
from trainer.errors import DataError
from trainer.schema.data import Data, Prompt, Validation


def look(path: Path, how: How | None = None, validation: Path | None = None, pool: Pool | None = None) -> Stats:
    return measure(path, how or How("chameleons", Prompt()), validation, lambda done: None, pool or Pool(1))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two users, one with two rows; one item is empty, one stands twice."""
    rows = [
        record("A", [entry([("B", "Hello?")], "Yes."), entry([("B", "Hello?")], "Yes.")]),
        {"user": {"profile": {"name": "C"}}},
        record("D", [entry([("B", "Hello?")], "Yes."), entry([], "caf\u00e9 \u00c3\u00a9"), entry([], " ")]),
        record("A", [entry([("B", "And?")], "No\x07.")]),
    ]
    return write_json(tmp_path / "people.json", rows)


def test_what_is_plain_to_see(people: Path) -> None:
    found = look(people)
    assert (found.rows, found.users, found.items, found.usable) == (4, 2, 6, 5)
    assert found.unusable == {"empty answer": 1}
    assert found.items_per_row == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert found.items_per_user == [(3, 2)] and found.rows_per_user == [(1, 1), (2, 1)]
    assert (found.duplicates.items, found.duplicates.texts, found.duplicates.answers) == (1, 2, 2)
    characters = found.characters
    assert (characters.non_ascii, characters.mojibake, characters.control, characters.replacement) == (1, 1, 1, 0)
    assert not characters.byte_order_mark and found.leaks is None and not found.exact
    assert sum(count for _, count in found.lengths) == 5
    assert Stats.from_json(found.to_json(), "x") == found


def test_leaks_between_two_files(people: Path, tmp_path: Path) -> None:
    held = [
        record("A", [entry([("B", "Hello?")], "Yes.")]),  # a copy
        record("Z", [entry([("B", "Hello?")], "Yes."), entry([("B", "Hm.")], "Hello?"), entry([("B", "Hm.")], "New.")]),
        record("Z", [entry([("B", "Hm.")], "")]),
    ]
    leaks = look(people, validation=write_json(tmp_path / "held.json", held)).leaks
    assert leaks is not None
    assert (leaks.held_out, leaks.copies, leaks.texts, leaks.answers, leaks.shown, leaks.users) == (4, 1, 2, 2, 1, 1)


@pytest.mark.parametrize("max_length", [700, 4096])
def test_exact_ones_are_what_a_run_counts(tmp_path: Path, max_length: int) -> None:
    folder = write_model(tmp_path / "model")
    write_chameleons(tmp_path / "train.json", 60)
    write_json(tmp_path / "held.json", [record("X", [entry([("Y", "z")], "held out")])])
    prompt = Prompt(blocks=("profile", "context"), task="Say it.", instruction="Go on:")
    data = Data(
        path="train.json",
        format="chameleons",
        prompt=prompt,
        max_length=max_length,
        validation=Validation(path="held.json"),
    )
    report = prepare(data, tmp_path, folder, tmp_path / "out", lambda line: None)
    found = look(tmp_path / "train.json", How("chameleons", prompt, (max_length,), folder))
    (cut,) = found.shortening
    assert (cut.tokens, cut.trained_tokens, cut.shortened) == (report.tokens, report.trained_tokens, report.shortened)
    assert cut.dropped == sum(report.dropped.values())
    assert (max_length == 700) == (cut.shortened + cut.dropped > 20)
    assert (found.exact, found.tokenizer, found.blocks) == (True, report.tokenizer, ["profile", "context"])
    if max_length == 4096:
        assert (found.length_p50, found.length_p90, found.length_p99, found.length_max) == (
            report.length_p50,
            report.length_p90,
            report.length_p99,
            report.length_max,
        )


def test_conversations_are_counted_as_they_are_trained(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    turns = [{"role": role, "content": f"{role} {place}"} for place in range(6) for role in ("user", "assistant")]
    lines = [{"messages": turns[: 2 * length], "user_hash": str(length % 2)} for length in range(1, 7)]
    write_lines(tmp_path / "train.jsonl", lines)
    write_lines(
        tmp_path / "held.jsonl", [{"messages": [{"role": r, "content": "held"} for r in ("user", "assistant")]}]
    )
    data = Data(path="train.jsonl", format="messages", validation=Validation(path="held.jsonl"), max_length=64)
    report = prepare(data, tmp_path, folder, tmp_path / "out", lambda line: None)
    found = look(tmp_path / "train.jsonl", How("messages", None, (64,), folder))
    (cut,) = found.shortening
    assert (cut.tokens, cut.trained_tokens, cut.shortened) == (report.tokens, report.trained_tokens, report.shortened)
    assert cut.shortened > 0 and found.items_per_user == [(3, 2)]


def test_estimates_are_near_what_is_counted(tmp_path: Path, qwen3_folder: Path) -> None:
    """On made-up words, which break into more tokens than a language's: within 40 %."""
    write_chameleons(tmp_path / "train.json", 40)
    exact = look(tmp_path / "train.json", How("chameleons", Prompt(), (300,), qwen3_folder))
    guess = look(tmp_path / "train.json", How("chameleons", Prompt(), (300,)))
    assert guess.tokens == pytest.approx(exact.tokens, rel=0.4)
    assert 0 < guess.shortening[0].shortened < 40


@pytest.mark.parametrize("indent", [None, 2])
def test_pieces_read_by_two_are_the_file_read_by_one(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "train.json"
    write_chameleons(path, 400)
    rows = json.loads(path.read_text())
    rows[3]["user"]["profile"]["nested"] = [{"user_hash": "no row begins here"}]
    path.write_text(json.dumps(rows, indent=indent))
    pieces = blocks(path, lines=False, size=20_000)
    assert pieces is not None
    ends = list(accumulate(map(len, pieces)))
    how, told = How("chameleons", Prompt(), (250, 300)), list[int]()
    by_two = measure(path, how, path, told.append, Pool(2, 20_000))
    assert told == ends and len(ends) > 10  # nobody read it from its start
    assert by_two == look(path, how, path)


@pytest.mark.parametrize("threads", [False, True], ids=["forked", "spawned"])
def test_lines_read_by_two(tmp_path: Path, threads: bool, request: pytest.FixtureRequest) -> None:
    if threads:  # beside which nothing is forked
        over = threading.Event()
        request.addfinalizer(over.set)
        threading.Thread(target=over.wait, daemon=True).start()
    lines = [{"prompt": f"Who is {n}?", "completion": f"It is {n % 7}.", "user_hash": str(n % 5)} for n in range(600)]
    path = write_lines(tmp_path / "a.jsonl", lines)
    how = How("prompt_completion", None, (32,))
    told = list[int]()
    assert look(path, how) == measure(path, how, None, told.append, Pool(2, 5_000))
    assert told[-1] == path.stat().st_size  # a reader from the start is told where its last row begins
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert look(path, how) == look(path, how, pool=Pool(2, 5_000))
    assert look(path, how).characters.byte_order_mark


def test_a_reader_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    write_chameleons(tmp_path / "a.json", 200)
    code = f"""import time; from pathlib import Path; from trainer.dataset.measuring import Pool, measure
from trainer.dataset.ruler import How; from trainer.schema.data import Prompt
def told(done): print(done, flush=True); time.sleep(60)
measure(Path({str(tmp_path / "a.json")!r}), How("chameleons", Prompt()), None, told, Pool(2, 20_000))"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.kill()
    deadline = time.monotonic() + 20
    while True:  # the group is there as long as one of its processes
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace('},\n {"user"', '}\n {"user"', 1), "expected ',' or ']' after the row"),
        (lambda text: text.rstrip().removesuffix("]"), "the file ends inside the array"),
        (lambda text: text + "x", "text after the end"),
        (
            lambda text: text.replace('"continuation": "', '"continuation": 3, "x": "', 1),
            "continuation must be a string",
        ),
    ],
    ids=["no comma", "no end", "more", "no text"],
)
def test_a_file_that_is_wrong_is_refused_at_its_place(tmp_path: Path, change: Any, problem: str) -> None:
    rows = [record(f"N{n}", [entry([("B", "Hello?")], f"Yes {n}.")]) for n in range(200)]
    path = tmp_path / "a.json"
    path.write_text(change("[" + ",\n ".join(map(json.dumps, rows)) + "]"))
    for pool in (Pool(1), Pool(2, 2_000)):
        with pytest.raises(DataError, match=problem):
            look(path, pool=pool)


def test_a_file_whose_rows_begin_otherwise_is_read_by_one(tmp_path: Path) -> None:
    rows = [record(f"N{n}", [entry([("B", "Hello?")], f"Yes {n}.")]) for n in range(300)]
    path = write_json(tmp_path / "a.json", [{"task": rows[0]["task"]}, *rows])
    found = look(path, pool=Pool(2, 1_000))
    assert (found.rows, found.items, found.users) == (301, 301, 301)


def test_a_stats_file_of_another_kind_is_refused(people: Path) -> None:
    good = look(people).to_json()
    for text in ("", "[]", "{}", good.replace('"version": 1', '"version": 2'), good.replace('"rows": 4,', "")):
        with pytest.raises(DataError, match="make it again"):
            Stats.from_json(text, "stats.json")


def test_samples_follow_from_the_histograms(tmp_path: Path) -> None:
    write_chameleons(tmp_path / "a.json", 300)
    found = look(tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())
    sizes = [len(row["task"]["task_behavior_collections"][0]["data"]) for row in rows]
    users = Counter[str]()
    for row, size in zip(rows, sizes, strict=True):
        users[row["user_hash"]] += size
    assert sum(min(n, 3) * count for n, count in found.items_per_row) == sum(min(n, 3) for n in sizes)
    assert sum(min(n, 3) * count for n, count in found.items_per_user) == sum(min(n, 3) for n in users.values())
