"""The report is right about what the run's folder says, stays small, and nothing from that folder can harm a reader."""

import json
import math
from array import array
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.report.chart import Curve, chart, round_ticks, short
from trainer.report.history import read_history
from trainer.report.lines import Line, smoothed, thinned
from trainer.report.page import lasted, page
from trainer.schema.contract import REPORT_HEAD, RunFolder

NOW = datetime(2026, 11, 26, 5, 0, tzinfo=UTC)
REPORT: dict[str, Any] = {
    "rows": 9, "users": 4, "items_read": 40, "items": 36, "train": 30, "validation": 6, "validation_ratio": 0.167,
    "dropped": {"does not fit max_length": 4}, "shortened": 0, "turns_dropped": 0, "fallbacks": 0,
    "lengths": {"<=64": 10, "<=128": 20}, "length_p50": 70, "length_p90": 99, "length_p99": 120, "length_max": 121,
    "tokens": 2100, "trained_tokens": 300, "padding_share": 0.3, "repeated_answers": 0, "seen_validation_answers": 0,
    "tokenizer": "0a",
}  # fmt: skip
HOSTILE = (
    "</pre></style><script>alert(1)</script>",
    '"><img src=https://example.com/x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}<!-- ",
    "\x1b[31m\x00\x08\ud800\u202e&lt;b&gt;",
)


def write_run(root: Path, steps: int, text: str = "plain", **more: float) -> RunFolder:
    """A run's folder with all its files: an evaluation every 10 steps, the best at 20; `text` wherever text can be."""
    folder = RunFolder(root / "run-12345678")
    folder.logs.mkdir(parents=True)
    train = {"model": {"path": text}, "lora": {"rank": 8, text: [text]}, "revision": 0}
    folder.config.write_text(json.dumps({"run": f"run-{text}", "train": train}))
    records: list[dict[str, Any]] = [{"step": 0, "evaluation": {"loss": 3.0, "answer_loss": 4.0}, "seconds": 2.0}]
    samples = [{"step": 0, "item": text, "prompt_tail": text, "reference": text, "answer": f"base {text}"}]
    for step in range(1, steps + 1):
        values = {"loss": 2.0 + math.sin(step), "lr": 1e-3, "grad_norm": 0.5, "tokens_per_s": 100.0, "mem_gib": 1.5}
        records.append({"step": step, "steps": steps, **values, "eta_s": 1.0, "seconds": 10.0 * step, **more})
        if step % 10 == 0:
            losses = {"loss": 2.5 if step == 20 else 2.75, f"{text}_loss": 0.5}
            records.append({"step": step, "evaluation": losses, "seconds": 2.0})
            samples.append({**samples[0], "step": step, "answer": f"{step} {text}"})
    folder.metrics.write_text("".join(json.dumps(one) + "\n" for one in records) + '{"step": 9')
    folder.samples.write_text("".join(json.dumps(one) + "\n" for one in samples))
    folder.report.write_text(json.dumps({**REPORT, "dropped": {text: 3}, "lengths": {"<=64": 10, text: 20}}))
    ends = [(143, "stopped at step 12"), (5, text)]
    attempts = [(number, code, sentence) for number, (code, sentence) in enumerate(ends, 1)]
    folder.attempts.write_text(json.dumps([
        {"attempt": number, "pod_uid": text, "started_step": 12 * (number - 1), "code": code, "sentence": sentence,
         "seconds": 60.0 * number} for number, code, sentence in attempts
    ]))  # fmt: skip
    folder.result.write_text(json.dumps({"phase": "Failed", "sentence": text}))
    log = f"run r\nattempt 2 of run-1, newest checkpoint: step 12\ntorch 2.13 {text}\nstep=13/30 loss=1.0\nend {text}\n"
    folder.log(2, 0).write_bytes(log.encode(errors="surrogatepass"))
    return folder


def written(folder: RunFolder) -> str:
    return page(read_history(folder), NOW).encode("utf-8", errors="replace").decode()


class Reader(HTMLParser):
    """What a browser would make of a page: tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_is_on_the_page(tmp_path: Path) -> None:
    read = Reader(written(write_run(tmp_path, 30)))
    said = " ".join(read.text.split())
    for words in (
        "run-plain Failed as of 2026-11-26 05:00:00 UTC plain step 30 of 30",
        "best held-out loss 2.5000 at step 20, 3.0000 before training",
        "time 5 min 3% of it for 4 evaluations (8 s)",
        "attempts 2 the newest from step 12",
        "Loss 2.75 nats per token",
        "Gradient norm 0.5 before clipping",
        "Tokens per second 100 of all ranks",
        "Memory 1.5 GiB, peak of rank 0",
        "loss 3.0000 2.5000 2.7500",
        "reference plain before training base plain adapter, step 20 20 plain",
        "<=64 10",
        "kept: training items 30, validation items 6",
        "2 from step 12: diverged (code 5) after 2 min plain",
        "1 from step 0: preempted (code 143) after 60 s stopped at step 12",
        "logs/attempt-02-node-0.log",
        "lora.rank 8",
        "torch 2.13 plain",
        "end plain",
    ):
        assert words in said, words
    assert "GPU" not in said, "there was none"
    assert read.tags.count("figure") == 6


def test_a_gpu_has_its_chart(tmp_path: Path) -> None:
    text = written(write_run(tmp_path, 30, gpu_util=97.0))
    assert "<b>GPU utilisation</b>" in text and '<strong class="c1">97</strong>' in text


@pytest.mark.parametrize("text", HOSTILE)
def test_what_comes_from_outside_is_text_and_nothing_else(tmp_path: Path, text: str) -> None:
    harmless, hostile = (
        Reader(written(write_run(tmp_path / name, 30, one))) for name, one in (("a", "x"), ("b", text))
    )
    assert hostile.tags == harmless.tags and "script" not in hostile.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
    shown = (
        text.replace("\ud800", "\ufffd").replace("\x1b", "\ufffd").replace("\x00", "\ufffd").replace("\x08", "\ufffd")
    )
    assert hostile.text.count(shown) >= 15, "each of them is shown"


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path: Path) -> None:
    read = Reader(text := written(write_run(tmp_path, 30, HOSTILE[1])))
    assert text.startswith(REPORT_HEAD), "before anything else"
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes
    assert not {name for name, _ in read.attributes} & {"src", "href", "srcset", "data", "action"}
    assert "url(" not in text and "@import" not in text and "<script" not in text


def test_steps_without_a_loss_are_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path, 5)
    with folder.metrics.open("a") as metrics:
        metrics.write("\n" + "".join(json.dumps({"step": step, "steps": 8, "loss": None}) + "\n" for step in (6, 7)))
    said = " ".join(Reader(written(folder)).text.split())
    assert "step 7 of 8; 2 had a loss that is no number" in said


def test_a_folder_with_nothing_in_it_has_a_page(tmp_path: Path) -> None:
    read = Reader(written(RunFolder(tmp_path)))
    assert tmp_path.name in read.text and "Running" in read.text and "figure" not in read.tags


def test_a_long_run_stays_small_and_keeps_its_spikes(tmp_path: Path) -> None:
    folder = write_run(tmp_path, 20_000)
    lines = folder.metrics.read_text().splitlines()
    spike = {"step": 15_000, "steps": 20_000, "loss": 90.0}
    lines[lines.index(next(line for line in lines if '"step": 15000' in line))] = json.dumps(spike)
    folder.metrics.write_text("\n".join(lines))
    history = read_history(folder)
    assert len(history.drawn["loss"]) == 20_000 and max(thinned(history.drawn["loss"]).values) == 90.0
    assert len(page(history, NOW)) < 400_000


records = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["step", "steps", "evaluation", "loss", "item", "answer"]), inner, max_size=5)
    ),
    max_leaves=12,
)


whole = st.integers() | st.sampled_from([0, 5, 143, 10**400])
attempts = st.fixed_dictionaries(
    {"attempt": whole, "pod_uid": st.text(max_size=5), "started_step": whole},
    optional={"code": st.none() | whole, "sentence": st.text(max_size=20), "seconds": st.floats() | whole},
)
reports = st.builds(
    lambda more: {**REPORT, **more}, st.dictionaries(st.sampled_from(list(REPORT)), records, max_size=3)
)


@settings(max_examples=60)
@given(st.lists(records, max_size=6), records, st.lists(attempts, max_size=3), reports)
def test_any_json_gives_a_page(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Any], other: Any, history: list[Any], report: Any
) -> None:
    folder = RunFolder(tmp_path_factory.getbasetemp() / "any")
    folder.root.mkdir(exist_ok=True)
    for path in (folder.metrics, folder.samples):
        path.write_text("\n".join(json.dumps(line) for line in lines))
    told = {folder.config: {"train": other}, folder.result: {"phase": "Failed", "sentence": other}}
    for path, value in {**told, folder.report: report, folder.attempts: history}.items():
        path.write_text(json.dumps(value))
    page(read_history(folder), NOW)


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_give_a_page(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = RunFolder(tmp_path_factory.getbasetemp() / "bytes")
    folder.logs.mkdir(exist_ok=True, parents=True)
    for path in (folder.metrics, folder.samples, folder.config, folder.attempts, folder.report, folder.log(1, 0)):
        path.write_bytes(b"\n".join(lines))
    page(read_history(folder), NOW)


numbers = st.floats(-1e100, 1e100)


@given(st.lists(numbers, min_size=1, max_size=300), st.integers(4, 40))
def test_thinning_keeps_the_ends_and_the_extremes(values: list[float], most: int) -> None:
    line = Line(array("d", range(len(values))), array("d", values))
    few = thinned(line, most)
    assert len(few) <= most and list(few.steps) == sorted(set(few.steps))
    assert {min(values), max(values), values[0], values[-1]} <= set(few.values)
    assert all(values[int(step)] == value for step, value in zip(few.steps, few.values, strict=True))
    low, high = min(values), max(values)
    assert all(low - abs(low) * 1e-9 <= mean <= high + abs(high) * 1e-9 for mean in smoothed(line).values)


@given(numbers, numbers)
def test_ticks_are_few_and_enclose_all(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = round_ticks(low, high)
    room = (ticks[-1] - ticks[0]) * 1e-6
    assert 2 <= len(ticks) <= 8 and ticks[0] <= low + room and high - room <= ticks[-1]
    assert all(len(short(tick)) <= 9 for tick in ticks)


@given(st.lists(numbers, min_size=1, max_size=20))
def test_all_of_a_chart_lies_inside_it(values: list[float]) -> None:
    done = chart([Curve("x", Line(array("d", range(len(values))), array("d", values)), 1)])
    assert done is not None
    places = [place for point in done.curves[0].points for place in point] + [at for at, _ in done.ticks_y]
    assert all(-1e-6 <= place <= 1 + 1e-6 for place in places)


def test_a_spike_makes_the_axis_logarithmic() -> None:
    def ticks(*values: float) -> list[str]:
        done = chart([Curve("x", Line(array("d", range(len(values))), array("d", values)), 1)])
        assert done is not None
        return [label for _, label in done.ticks_y]

    assert ticks(1, 1, 1, 2) == ["1", "1.25", "1.5", "1.75", "2"]
    assert ticks(1, 1, 1, 5000) == ["1", "10", "100", "1,000", "10k"]
    assert ticks(0, 1, 1, 5000) == ["0", "2,000", "4,000", "6,000"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (2e-4, "2e-4"), (0.0015, "1.5e-3"), (0.25, "0.25"), (5210, "5,210"), (52_130, "52.13k"), (3e7, "30M")],
)
def test_short_numbers(value: float, said: str) -> None:
    assert short(value) == said


def test_times() -> None:
    seconds = (41.4, 720, 5 * 3600 + 720, 148 * 3600)
    assert [lasted(one) for one in seconds] == ["41 s", "12 min", "5 h 12 min", "6 d 4 h"]
