"""kctl data as a person uses it: what is printed where, exit codes, that nothing is overwritten or left half done."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kctl.cli import run
from tests.bench_dataset import write_chameleons
from tests.unit.dataset_world import entry, record, write_json, write_lines, write_model
from tests.unit.test_dataset_refusals import VALUES, near
from trainer.dataset.prepare import prepare
from trainer.schema.data import Data, Sample, Validation

KCTL = str(Path(sys.executable).with_name("kctl"))
PEOPLE = [
    record("IRIS", [entry([("DOC", "Where?")], f"Under floor {n}.") for n in range(5)], user_hash="01"),
    record("DOC", [entry([("IRIS", "Hm?"), ("DOC", "No."), ("IRIS", "Why?")], "Tuesdays.")], user_hash="02"),
    record("IRIS", [entry([], "Nobody move."), entry([], "")], user_hash="01"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with people.json, a model folder and chats.jsonl; the current one."""
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "people.json", PEOPLE)
    write_model(tmp_path / "model")
    turns = [("user", "Who?"), ("assistant", "I."), ("user", "Why?"), ("assistant", "So.")]
    chat = {"messages": [{"role": role, "content": text} for role, text in turns]}
    write_lines(tmp_path / "chats.jsonl", [chat, {"messages": chat["messages"][:2]}])
    return tmp_path


def kctl(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(["data", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_stats_for_people_and_for_plan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = kctl(capsys, "stats", "people.json", "--validation", "people.json", "--max-length", "100")
    assert (code, err) == (0, "")
    assert "rows 3, users 2, items 8 (2.7 a row, 4.0 a user), usable 7\n  1 empty answer\n" in out
    assert "(estimated from bytes; --tokenizer FOLDER counts them)" in out
    assert re.search(r"^MAX_LENGTH +SHORTENED +DROPPED +TOKENS LEFT\n100 ", out, re.MULTILINE)
    assert "of 7 held-out items: 7 are training items" in out
    code, out, _ = kctl(capsys, "stats", "people.json", "--tokenizer", "model", "--config", "lora_di3", "-o", "json")
    found = json.loads(out)
    assert code == 0 and found["exact"] and found["version"] == 1
    assert [cut["max_length"] for cut in found["shortening"]] == [1024]
    code, out, _ = kctl(capsys, "stats", "people.json", "--tokenizer", "model", "--config", "lora_di3", "-o", "yaml")
    assert code == 0 and yaml.safe_load(out) == found
    assert kctl(capsys, "stats", "people.json", "-o", "name")[:2] == (0, "people.json\n")
    code, out, _ = kctl(capsys, "stats", "chats.jsonl", "--tokenizer", "model")
    assert code == 0 and "format messages" in out and "(counted)" in out


def test_a_division_is_the_one_of_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_chameleons(here / "train.json", 400)
    options = [
        "validation.unit=item",
        "validation.ratio=0.2",
        "sample={unit: item, max: 4, per: user}",
        "max_length=4096",
    ]
    sets = [word for option in options for word in ("--set", f"train.data.{option}")]
    code, out, _ = kctl(capsys, "stats", "train.json", "--config", "lora_di3", "--split", "-o", "json", *sets)
    found = json.loads(out)["division"]
    sample, validation = Sample(unit="item", max=4, per="user"), Validation(ratio=0.2)
    data = Data(path="train.json", format="chameleons", sample=sample, validation=validation, max_length=4096)
    report = prepare(data, here, here / "model", here / "prepared", lambda line: None)
    assert code == 0 and (found["train"], found["held_out"]) == (report.train, report.validation)
    assert found["repeated_answers"] == report.repeated_answers and found["shown"] == report.seen_validation_answers
    assert 0 < found["users"] <= report.users
    code, out, _ = kctl(capsys, "stats", "train.json", "--config", "lora_di3", "--split", *sets)
    assert code == 0 and f"this config trains {report.train} items and holds out {report.validation}," in out
    assert kctl(capsys, "stats", "train.json", "--split")[0] == 2


def test_a_history_block_is_said_to_be_missing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--config", "lora_di3", "--set", "train.data.prompt.blocks=[history, context]")
    code, out, err = kctl(capsys, "stats", "people.json", *words)
    assert code == 0 and out and "without the history block" in err


def test_sample(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = kctl(capsys, "sample", "people.json", "few.json", "--max", "2", "--per", "row")
    assert (code, out, err) == (0, "few.json\n", "rows 3 -> 3, users 2 -> 2, items 8 -> 5\n")
    first = Path("few.json").read_bytes()
    code, _, err = kctl(capsys, "sample", "people.json", "few.json", "--max", "1")
    assert code == 2 and "few.json: exists" in err and Path("few.json").read_bytes() == first
    assert kctl(capsys, "sample", "people.json", "again.json", "--max", "2", "--per", "row")[0] == 0
    assert Path("again.json").read_bytes() == first
    code, out, err = kctl(capsys, "sample", "people.json", "users.json", "--max", "2")
    assert (code, err) == (0, "rows 3 -> 2, users 2 -> 2, items 8 -> 3\n")
    code, _, err = kctl(capsys, "sample", "chats.jsonl", "all.jsonl", "--max", "1")
    assert code == 0 and "items 2 -> 2" in err and "nothing names a user" in err
    code, _, err = kctl(capsys, "sample", "chats.jsonl", "one.jsonl", "--max", "1", "--per", "file")
    assert (code, err) == (0, "rows 2 -> 1, users 2 -> 1, items 2 -> 1\n")
    assert kctl(capsys, "sample", "people.json", "x.json", "--max", "1", "--unit", "row", "--per", "row")[0] == 2
    assert kctl(capsys, "sample", "people.json", "x.json", "--max", "0")[0] == 2 and not Path("x.json").exists()


def test_preview_marks_what_is_trained(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = kctl(capsys, "preview", "people.json", "--tokenizer", "model", "--item", "6")
    assert code == 0
    assert out.startswith("# item 6, people.json: row 2 (line 1, byte ")
    assert "Assistant: No.\nUser: Why?\n" in out
    assert out.endswith("<|im_start|>assistant\n{+[ANSWER]\nTuesdays.\n[/ANSWER]<|im_end|>+}\n")
    code, out, _ = kctl(capsys, "preview", "people.json", "--tokenizer", "model", "--item", "8", "--count", "9")
    assert code == 0 and out.endswith("item 2: not trained: empty answer\n")
    code, out, _ = kctl(capsys, "preview", "chats.jsonl", "--tokenizer", "model")
    assert code == 0 and "{+I.<|im_end|>+}" in out and "{+So.<|im_end|>+}" in out
    words = ("--config", "lora_di3", "--set", "train.data.prompt.blocks=[history]")
    code, out, _ = kctl(capsys, "preview", "people.json", "--tokenizer", "model", "--item", "5", *words)
    assert code == 0 and "[HISTORY]\n1. Under floor" in out
    assert kctl(capsys, "preview", "people.json", "--tokenizer", "model", "--item", "99")[0] == 4


def test_preview_on_a_terminal_is_coloured_and_harmless(here: Path) -> None:
    write_json(here / "evil.json", [record("A", [entry([("B", "\x1b[2JGone?")], "\x1b]0;x\x07Yes.")])])
    words = [KCTL, "data", "preview", "evil.json", "--tokenizer", "model"]
    for colour in (True, False):
        environment = {**os.environ, "TERM": "xterm"} | ({} if colour else {"NO_COLOR": "1"})
        shown = on_a_terminal(words, environment)
        assert "\x1b[2J" not in shown and "\x07" not in shown and "\\x1b[2JGone?" in shown
        assert ("\x1b[1;32m\\x1b]0;x\\x07Yes.\x1b[0m" in shown) == colour == ("{+" not in shown)


def test_a_bar_is_drawn_on_a_terminal(here: Path) -> None:
    write_json(here / "a.json", [record("A", [entry([("B", "x" * 3000)], f"Yes {n}.") for n in range(50)])] * 20)
    shown = on_a_terminal([KCTL, "data", "stats", "a.json"], {**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    assert re.search(r"a\.json .*/[23]\.\d MiB", shown) and "rows 20, users 1" in shown
    plain = on_a_terminal([KCTL, "data", "stats", "a.json"], {**os.environ, "NO_COLOR": "1"})
    assert "\x1b" not in plain and "rows 20, users 1" in plain


def on_a_terminal(words: list[str], environment: dict[str, str]) -> str:
    parent, child = pty.openpty()
    with subprocess.Popen(words, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        shown = b""
        try:
            while part := os.read(parent, 65536):
                shown += part
        except OSError:  # Linux: the other end is closed
            pass
        assert process.wait() == 0, shown
    os.close(parent)
    return shown.decode()


def test_convert(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = kctl(capsys, "convert", "people.json", "pairs.jsonl", "--to", "prompt_completion")
    assert (code, out) == (1, "") and "people.json: row 1 (line 1, byte 1): " in err and "--without rows" in err
    words = [word for part in ("rows", "profile", "items") for word in ("--without", part)]
    code, out, err = kctl(capsys, "convert", "people.json", "pairs.jsonl", "--to", "prompt_completion", *words)
    assert (code, out) == (0, "pairs.jsonl\n")
    left_out = "left out: items of 1 items\nleft out: profile of 7 items\nparted 2 rows\n"
    assert err == f"{left_out}7 items of format prompt_completion\n"
    code, _, err = kctl(capsys, "convert", "pairs.jsonl", "chats2.jsonl", "--to", "messages")
    assert code == 1 and "row 6 (line 6, byte " in err and "so that the same is trained" in err
    assert kctl(capsys, "convert", "pairs.jsonl", "x.jsonl", "--to", "prompt_completion")[0] == 2
    assert kctl(capsys, "convert", "people.json", "pairs.jsonl", "--to", "messages")[0] == 2


def test_validate(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = kctl(capsys, "validate", "people.json")
    assert code == 0 and err == (
        "people.json: 3 rows, 2 users, 8 items of format chameleons; 1 of them would be left out\n"
    )
    assert out.startswith("people.json: row 3 (line 1, byte ") and out.endswith("), item 2: empty answer (left out)\n")
    Path("bad.jsonl").write_text('{"prompt": "a", "completion": 1}\nx\n')
    code, out, err = kctl(capsys, "validate", "bad.jsonl")
    assert code == 1 and out.count("\n") == 2 and "row 1 (line 1, byte 0): completion must be a string" in out
    assert err.startswith("error: bad.jsonl: 2 errors that would end a run; 0 rows,")


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["stats", "no.json"], 4, "no.json: no such file"),
        (["stats", "model"], 4, "is a folder"),
        (["stats", "people.json", "--validation", "no.json"], 4, "no.json: no such file"),
        (["stats", "people.json", "--tokenizer", "no"], 4, "--tokenizer no: no such folder"),
        (["stats", "people.json", "--tokenizer", "."], 2, "tokenizer.json: no such file"),
        (["stats", "people.json", "--set", "a=b"], 2, "add --config CONFIG"),
        (["stats", "chats.jsonl", "--config", "lora_di3"], 2, "looks like messages, and lora_di3 has"),
        (["stats", "people.json", "--config", "lora_di3", "--format", "messages"], 2, "leave --config out"),
        (["preview", "people.json"], 2, "add --tokenizer FOLDER"),
        (["validate", "model/tokenizer.json"], 1, "neither chameleons, messages nor prompt_completion"),
        (["sample", "people.json", "out.json"], 2, "--max"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_what_is_wrong_is_said(
    here: Path, words: list[str], code: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = kctl(capsys, *words)
    assert (got, out) == (code, "") and problem in err and "Traceback" not in err
    assert not Path("out.json").exists()


@pytest.mark.parametrize(
    "words",
    [["validate", "a.json"], ["sample", "a.json", "out.json", "--max", "1", "--per", "row"]],
    ids=lambda w: w[0],
)
def test_memory_does_not_grow_with_the_file(here: Path, words: list[str]) -> None:
    row = record("A", [entry([("B", "x" * 3000)], f"Yes {n}.") for n in range(50)])
    code = f"""from kctl.cli import run; assert run({["data", *words]}) == 0
from pathlib import Path; print("peak", Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])"""
    peaks = []
    for rows in (20, 200):  # 3 and 31 MB
        write_json(here / "a.json", [row] * rows)
        (here / "out.json").unlink(missing_ok=True)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 6, f"{peaks} MiB"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=VALUES | VALUES.map(near),
    cut=st.none() | st.integers(0, 400),
    lines=st.booleans(),
    named=st.sampled_from([None, "chameleons", "messages", "prompt_completion"]),
)
def test_nothing_odd_in_a_file_is_an_internal_error(
    here: Path, value: Any, cut: int | None, lines: bool, named: str | None
) -> None:
    dumped = json.dumps(value if lines else [value, value], indent=None if lines else 1)
    Path("odd").write_bytes(dumped.encode()[:cut])
    told = ["--format", named] if named else []
    for words in (
        ["stats", "odd", "--validation", "odd"],
        ["stats", "odd", "-o", "json", "--tokenizer", "model", "--max-length", "32"],
        ["validate", "odd"],
        ["preview", "odd", "--tokenizer", "model", "--count", "3"],
        ["sample", "odd", "out", "--max", "1"],
        ["sample", "odd", "out", "--max", "1", "--per", "row"],
        *(["convert", "odd", "out", "--to", target, "--without", "items"] for target in ("messages", "chameleons")),
    ):
        err = io.StringIO()
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())), contextlib.redirect_stderr(err):
            code = run(["data", *words, *told])
        assert code in (0, 1, 2, 4) and "internal error" not in err.getvalue(), (words, err.getvalue())
        assert code == 0 or err.getvalue().startswith("error: "), (words, err.getvalue())
        assert not list(here.glob(".*"))
        Path("out").unlink(missing_ok=True)


def test_ctrl_c_leaves_nothing_behind(here: Path) -> None:
    os.mkfifo("endless.jsonl")  # a file that never ends, so that the signal comes while it is read
    words = [KCTL, "data", "sample", "endless.jsonl", "out.jsonl", "--max", "1", "--per", "row", "--format", "messages"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        line = json.dumps({"messages": [{"role": "user", "content": "a"}]}).encode() + b"\n"
        with Path("endless.jsonl").open("wb", buffering=0) as pipe:
            pipe.write(line)
            deadline = time.monotonic() + 20
            while not list(here.glob(".out.jsonl.*")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"") and b"Traceback" not in err
    assert not list(here.glob("*out.jsonl*"))


def test_a_file_that_comes_meanwhile_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dangling").symlink_to("nowhere")
    code, _, err = kctl(capsys, "sample", "chats.jsonl", "dangling", "--max", "1")
    assert code == 2 and "dangling: exists" in err and not Path("nowhere").exists()
    os.mkfifo("slow.jsonl")
    words = [KCTL, "data", "convert", "slow.jsonl", "out.jsonl", "--to", "prompt_completion", "--format", "messages"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with Path("slow.jsonl").open("wb") as pipe:
            pipe.write((here / "chats.jsonl").read_bytes().splitlines(keepends=True)[1])
            deadline = time.monotonic() + 20
            while not list(here.glob(".out.jsonl.*")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            Path("out.jsonl").write_text("theirs")
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "") and "out.jsonl: came meanwhile, and is kept; move it away" in err
    assert Path("out.jsonl").read_text() == "theirs" and not list(here.glob(".*"))
