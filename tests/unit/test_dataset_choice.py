"""Sampling, splitting and history: who is trained, who is held out, and what a prompt may know."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.dataset_world import make_item
from trainer.dataset.history import collect_histories
from trainer.dataset.items import Example, Item, Row, Turn, User, build_row
from trainer.dataset.sampling import sample_items
from trainer.dataset.splitting import split_items
from trainer.schema.data import Sample, Validation

TEXTS = [f"line {number}" for number in range(12)]


def make_rows(shape: Sequence[tuple[int, Sequence[tuple[str, float | None]]]]) -> list[Row]:
    """Rows from (user number, [(answer, time)]); user 0 has no identity."""
    rows: list[Row] = []
    order = 0
    for user, answers in shape:
        examples = [Example((Turn("user", "why?"),), answer, time=time) for answer, time in answers]
        rows.append(build_row(User(f"u{user}" if user else None), examples, order))
        order += len(answers)
    return rows


ANSWERS = st.tuples(st.sampled_from(TEXTS), st.none() | st.integers(0, 5).map(float))
ROWS = st.lists(st.tuples(st.integers(0, 4), st.lists(ANSWERS, max_size=8)), min_size=1, max_size=8).map(make_rows)


def seed_sampler(rows: list[list[Any]], most: int, seed: int) -> list[Any]:
    """The seed's script, written from its description: one stream, over-long rows drawn, others whole."""
    random.seed(seed)
    kept = []
    for row in rows:
        kept.append(random.sample(row, most) if len(row) > most else row)
    return [item for row in kept for item in row]


@given(rows=ROWS, most=st.integers(1, 5), seed=st.integers(0, 100))
def test_items_a_row_are_the_seeds(rows: list[Row], most: int, seed: int) -> None:
    chosen = sample_items(rows, Sample(unit="item", max=most, per="row", seed=seed))
    assert chosen == seed_sampler([list(row.items) for row in rows], most, seed)


def test_the_seeds_stream_is_pinned() -> None:
    rows = make_rows(
        [(1, [(f"a{n}", None) for n in range(6)]), (2, [("b0", None)]), (1, [(f"c{n}", None) for n in range(5)])]
    )
    chosen = sample_items(rows, Sample(unit="item", max=3, per="row", seed=42))
    assert [item.answer for item in chosen] == ["a5", "a0", "a4", "b0", "c2", "c1", "c0"]


@given(rows=ROWS, most=st.integers(1, 5), shuffle=st.randoms(use_true_random=False))
def test_items_a_user_do_not_depend_on_the_order(rows: list[Row], most: int, shuffle: random.Random) -> None:
    sample = Sample(unit="item", max=most, per="user")
    chosen = sample_items(rows, sample)
    per_user = Counter(item.user.identity for item in chosen if item.user.identity)
    everything = Counter(item.user.identity for row in rows for item in row.items if item.user.identity)
    assert per_user == {user: min(count, most) for user, count in everything.items()}
    assert [item.order for item in chosen] == sorted(item.order for item in chosen)
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    assert Counter(item.key for item in sample_items(shuffled, sample)) == Counter(item.key for item in chosen)


@given(rows=ROWS, most=st.integers(1, 3))
def test_rows_a_user_stay_whole(rows: list[Row], most: int) -> None:
    chosen = sample_items(rows, Sample(unit="row", max=most, per="user"))
    kept = [row for row in rows if row.items and row.items[0] in chosen]
    assert [item for row in kept for item in row.items] == chosen
    assert all(count <= most for user, count in Counter(row.items[0].user.identity for row in kept).items() if user)


UNITS = st.sampled_from(["item", "row", "user"])


@given(rows=ROWS, unit=UNITS, ratio=st.floats(0.05, 0.95), shuffle=st.randoms(use_true_random=False))
def test_splits_are_disjoint_and_independent_of_order(
    rows: list[Row], unit: Any, ratio: float, shuffle: random.Random
) -> None:
    items = [item for row in rows for item in row.items]
    split = split_items(items, Validation(unit=unit, ratio=ratio))
    train, held = {item.key for item in split.train}, {item.key for item in split.held}
    assert not train & held
    assert len(split.train) + len(split.held) + split.copies == len(items)
    if unit == "user":
        users = [{item.user.identity for item in side} - {None} for side in (split.train, split.held)]
        assert not users[0] & users[1]
    if unit == "item":
        assert split.copies == 0
        assert {item.user.identity for item in split.held} - {None} <= {item.user.identity for item in split.train}
    assert split.train or not items
    shuffle.shuffle(items)
    again = split_items(items, Validation(unit=unit, ratio=ratio))
    assert {item.key for item in again.train} == train and {item.key for item in again.held} == held


@pytest.mark.parametrize("unit", ["item", "row", "user"])
def test_the_ratio_is_what_was_asked(unit: Any) -> None:
    rows = make_rows([(1 + number // 2, [(f"a{number} {n}", None) for n in range(5)]) for number in range(4000)])
    split = split_items([item for row in rows for item in row.items], Validation(unit=unit, ratio=0.1))
    assert len(split.held) / 20_000 == pytest.approx(0.1, abs=0.015)


def test_small_files_have_two_sides() -> None:
    for count in (2, 3, 5):
        items = [make_item([("user", "q")], f"a{n}", None) for n in range(count)]
        split = split_items(items, Validation(ratio=0.001))
        assert len(split.held) == 1 and len(split.train) == count - 1


def test_another_seed_holds_out_others() -> None:
    items = [make_item([("user", "q")], f"a{n}", None) for n in range(200)]
    sides = [{item.key for item in split_items(items, Validation(ratio=0.2, seed=seed)).held} for seed in (1, 2)]
    assert sides[0] != sides[1]


@settings(max_examples=200)
@given(rows=ROWS, ratio=st.floats(0.05, 0.6), limit=st.integers(1, 6))
def test_history_never_knows_too_much(rows: list[Row], ratio: float, limit: int) -> None:
    items = [item for row in rows for item in row.items]
    split = split_items(items, Validation(ratio=ratio))
    histories = collect_histories(split.train, split.held, limit)
    for side, chosen in zip((split.train, split.held), histories, strict=True):
        for item, history in zip(side, chosen, strict=True):
            same = [other for other in items if other.user.identity == item.user.identity]
            assert len(history) <= limit and len(set(history)) == len(history)
            assert item.line not in history and not {turn.text for turn in item.turns} & set(history)
            assert not {other.line for other in split.held if other in same} & set(history)
            assert item.user.identity or not history
            for line in history:
                assert any(not_later(other, item) for other in same if other.line == line and other in split.train)


def not_later(other: Item, item: Item) -> bool:
    if other.time is not None and item.time is not None:
        return (other.time, other.order) < (item.time, item.order)
    return other is not item


def test_history_is_the_latest_in_time_order() -> None:
    def said(answer: str, time: float | None, order: int, **more: Any) -> Item:
        return make_item([("user", "q")], answer, time=time, order=order, **more)

    items = [said("c", 30, 0), said("a", 10, 1), said("b", 20, 2), said("a", 15, 3), said("d", 40, 4)]
    assert collect_histories(items, [], 15)[0] == [("a", "b"), (), ("a",), (), ("a", "b", "c")]
    assert collect_histories(items, [], 2)[0][4] == ("b", "c")
    plain = [said(text, None, order) for order, text in enumerate("abc")]
    assert collect_histories(plain, [], 15)[0] == [(), ("a",), ("a", "b")]
    held = said("x", None, 9)
    assert collect_histories(plain, [held], 15)[1] == [("a", "b", "c")]
    rated = [said("5.0", None, order, query=f"Film {order}:") for order in range(3)]
    assert collect_histories(rated, [], 15)[0][2] == ("Film 0: 5.0", "Film 1: 5.0")
