"""What a plan knows of the data: the run's own counts where there are some, never a number out of nothing."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.errors import NotFound, UsageError
from kctl.plan.lengths import MOST, Lengths, guessed, of_data, of_file, of_report, told
from tests.bench_dataset import write_chameleons
from tests.unit.dataset_world import write_lines, write_model
from tests.unit.test_schedule import config
from trainer.dataset.prepare import prepare
from trainer.dataset.report import Report
from trainer.dataset.stats import VERSION, Characters, Division, Duplicates, Stats
from trainer.errors import DataError
from trainer.schema.data import Data

FORM = {"path": "train.json", "format": "chameleons"}


def data(**fields: Any) -> Data:
    return Data.model_validate({**FORM, **fields})


def report_of(lengths: list[int], **fields: Any) -> Report:
    """As a preparation of items of these lengths would write it."""
    from trainer.dataset.report import length_facts

    empty: dict[str, Any] = {name: 0 for name in Report.__dataclass_fields__}
    facts = asdict(length_facts(lengths))
    return Report(**{**empty, "train": len(lengths), "trained_tokens": sum(lengths) // 6, **facts, **fields})


def stats() -> dict[str, Any]:
    """As kctl data stats -o json writes them of a file of 1,000 items."""
    counts: dict[str, Any] = {name: 0 for name in Stats.__dataclass_fields__}
    texts = {"path": "train.json", "format": "chameleons", "blocks": [], "tokenizer": "", "unusable": {}}
    numbers = {"version": VERSION, "exact": True, "items": 1000, "tokens": 650_000, "trained_tokens": 65_000}
    groups = {"items_per_row": [(1, 100), (9, 100)], "items_per_user": [(10, 100)], "rows_per_user": [(2, 100)]}
    found = {
        **counts,
        **texts,
        **numbers,
        **groups,
        "lengths": [(100, 600), (300, 300), (5000, 100)],
        "shortening": [],
        "duplicates": Duplicates(0, 0, 0),
        "leaks": None,
        "division": None,
        "characters": Characters(0, 0, 0, 0, False),
    }
    return asdict(Stats(**found))


@pytest.mark.parametrize(
    ("items", "mean"), [(1000, 40.0), (72_000, 360.0), (5, 1000.0), (10, 1024.0), (10, 1.0), (1, 50.0)]
)
def test_what_is_told_has_that_mean_and_no_item_is_too_long(items: int, mean: float) -> None:
    lengths = told(config(), items, mean)
    assert lengths.mean == pytest.approx(mean, rel=0.01)
    assert max(lengths.tokens) <= 1024 and (lengths.items or 0) + lengths.held_out == items
    assert lengths == told(config(), items, mean) and (lengths.items or 0) >= 1
    with pytest.raises(UsageError, match="no item is longer"):
        told(config(), items, 1025)


def test_a_guess_says_that_it_is_one() -> None:
    lengths = guessed(config())
    assert (lengths.items, lengths.sure, lengths.source) == (None, "guessed", "made up")


@given(st.lists(st.integers(8, 1024), min_size=1, max_size=400))
def test_a_reports_lengths_have_its_count_and_mean(given_lengths: list[int]) -> None:
    found = of_report(report_of(given_lengths, validation=7), "there")
    mean = sum(given_lengths) / len(given_lengths)
    assert (found.items, found.held_out, len(found.tokens)) == (len(given_lengths), 7, len(given_lengths))
    assert found.mean == pytest.approx(mean, rel=0.25) and max(found.tokens) <= max(given_lengths)


def test_many_items_are_stood_for_by_some() -> None:
    found = of_report(report_of([100] * 30_000 + [900] * 10_000), "there")
    assert found.items == 40_000 and len(found.tokens) <= MOST + 2
    assert found.mean == pytest.approx(300, rel=0.02)


def test_counts_of_a_whole_file_are_sampled_and_split(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(stats()))
    whole = of_file(path, config())
    assert (whole.items, whole.held_out, whole.labels) == (900, 100, 0.1)
    assert max(whole.tokens) == 1024 and whole.source == "train.json, by kctl data stats"
    some = of_file(path, config(data={**FORM, "sample": {"unit": "item", "max": 3, "per": "row"}}))
    assert (some.items or 0) + some.held_out == 400  # of 10 items in two rows 1 and 3
    apart = of_file(path, config(data={**FORM, "validation": {"path": "held.json"}}))
    assert (apart.items, apart.held_out) == (1000, 0)
    path.write_text(json.dumps({**stats(), "division": asdict(Division(700, 120, 3, 0, 0, 0, 0))}))
    divided = of_file(path, config())
    assert (divided.items, divided.held_out) == (700, 120) and divided.source.endswith("as its --split was told")


def test_a_data_file_gives_what_its_preparation_would(tmp_path: Path) -> None:
    write_chameleons(tmp_path / "train.json", 400)
    model = write_model(tmp_path / "model")
    wanted = data(sample={"unit": "item", "max": 3, "per": "row"}, max_length=4096)
    report = prepare(wanted, tmp_path, model, tmp_path / "prepared", lambda _: None)
    exact = of_data(tmp_path / "train.json", wanted, model, lambda _: None)
    assert (exact.items, exact.held_out, exact.sure) == (report.train, report.validation, "exact")
    assert sum(exact.tokens) == report.tokens and max(exact.tokens) == report.length_max
    rough = of_data(tmp_path / "train.json", wanted, None, lambda _: None)
    assert (rough.items, rough.held_out, rough.sure) == (report.train, report.validation, "estimated")
    assert 0 < rough.labels < 1 and "--model FOLDER" in rough.source
    short = of_data(tmp_path / "train.json", wanted.model_copy(update={"max_length": 300}), None, lambda _: None)
    assert max(short.tokens) <= 300 < max(rough.tokens), "older turns are left out"
    with pytest.raises(DataError, match="nothing is left to train on"):
        of_data(tmp_path / "train.json", wanted.model_copy(update={"max_length": 64}), None, lambda _: None)


def test_a_data_file_may_lie_anywhere(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": f"{n}"}]} for n in range(9)
    ]
    (tmp_path / "here").mkdir()
    write_lines(tmp_path / "here" / "a.jsonl", rows)
    write_lines(tmp_path / "here" / "held.jsonl", rows[:1])
    wanted = Data.model_validate({"path": "x/y.jsonl", "format": "messages", "validation": {"path": "z/held.jsonl"}})
    found = of_data(tmp_path / "here" / "a.jsonl", wanted, None, lambda _: None)
    assert (found.items, found.held_out) == (9, 0), "the copy is dropped from what is held out"
    with pytest.raises(NotFound, match="no such file"):
        of_data(tmp_path / "a.jsonl", wanted, None, lambda _: None)


NUMBER = st.integers(-3, 10**20) | st.floats() | st.none() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
PAIRS = st.lists(st.tuples(NUMBER, NUMBER), max_size=3) | st.dictionaries(st.text(max_size=4), NUMBER, max_size=3)
FIELDS = st.fixed_dictionaries(
    {}, optional={name: NUMBER | PAIRS for name in ("lengths", "items_per_row", "tokens", "trained_tokens", "train")}
)


@settings(max_examples=200, deadline=None)
@given(FIELDS, st.booleans())
def test_any_file_of_counts_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, odd: Any, report: bool
) -> None:
    base = asdict(report_of([100, 200])) if report else stats()
    path = tmp_path_factory.getbasetemp() / "odd.json"
    path.write_text(json.dumps({**base, **odd}))
    try:
        found: Lengths = of_file(path, config(data={**FORM, "sample": {"unit": "item", "max": 3, "per": "row"}}))
    except UsageError as error:
        assert "a run's data-report.json, or what kctl data stats -o json wrote" in str(error)
        return
    assert found.mean >= 1 and found.items


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 50_000, '{"lengths": 3}', "\x00"])
def test_what_is_no_file_of_counts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"a run's data-report\.json"):
        of_file(path, config())
    with pytest.raises(NotFound, match="No such file"):
        of_file(tmp_path / "none.json", config())
