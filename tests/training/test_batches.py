"""Steps, packing and the tensors of a row."""

import math
import random
from array import array
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_schedule import config
from trainer.batches import build_batch, plan_step, step_items
from trainer.schema.packing import Packing, pack

CPU = torch.device("cpu")


class ListItems:
    """A split from lists, with the reading side of trainer.dataset.prepared.Items."""

    def __init__(self, tokens: Sequence[list[int]], kinds: Sequence[list[int]]) -> None:
        self.ids = [f"item-{number}" for number in range(len(tokens))]
        self._tokens = [memoryview(array("i", row)) for row in tokens]
        self._kinds = [memoryview(bytes(row)) for row in kinds]

    def __len__(self) -> int:
        return len(self.ids)

    def length(self, item: int) -> int:
        return len(self._tokens[item])

    def kept(self, item: int) -> int:
        return sum(1 for kind in self._kinds[item] if kind)

    def tokens(self, item: int) -> memoryview:
        return self._tokens[item]

    def kinds(self, item: int) -> memoryview:
        return self._kinds[item]


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=80),
    ranks=st.integers(1, 9),
    ceiling=st.integers(1, 600),
    packed=st.booleans(),
    equal=st.booleans(),
)
def test_packing_only_divides(lengths: list[int], ranks: int, ceiling: int, packed: bool, equal: bool) -> None:
    rows = pack(range(len(lengths)), lengths, Packing(ranks, ceiling, packed, equal))
    assert len(rows) == ranks
    assert sorted(item for own in rows for row in own for item in row) == list(range(len(lengths)))
    for row in (row for own in rows for row in own):
        assert len(row) <= 1 or (packed and sum(lengths[item] for item in row) <= ceiling)
    if equal:
        assert len({len(own) for own in rows}) == 1


def test_ranks_get_about_the_same_number_of_tokens() -> None:
    lengths = [40 + 37 * item % 900 for item in range(64)]
    rows = pack(range(64), lengths, Packing(8, 2048))
    loads = [sum(lengths[item] for row in own for item in row) for own in rows]
    assert max(loads) <= 1.15 * sum(loads) / 8


@pytest.mark.parametrize(("ranks", "ceiling", "lost"), [(1, 16_384, 0.01), (1, 8_192, 0.01), (8, 3_456, 0.04)])
def test_little_is_lost_to_padding_and_idle_ranks(ranks: int, ceiling: int, lost: float) -> None:
    """Over 100 steps of 64 items as the benchmark's, rows in multiples of 128 as on a GPU."""
    draw, real, spent = random.Random(0), 0, 0
    for _ in range(100):
        lengths = [min(1024, max(40, round(draw.lognormvariate(math.log(300), 0.6)))) for _ in range(64)]
        rows = pack(range(64), lengths, Packing(ranks, ceiling, multiple=128))
        loads = [sum(-(-sum(lengths[item] for item in row) // 128) * 128 for row in own) for own in rows]
        real, spent = real + sum(lengths), spent + max(loads) * ranks
    assert 1 - real / spent <= lost


@given(items=st.integers(1, 200), batch=st.integers(1, 70), seed=st.integers(0, 5))
def test_an_epoch_trains_every_item_once(items: int, batch: int, seed: int) -> None:
    train = config(global_batch_size=batch, seed=seed, epochs=2)
    per_epoch = -(-items // batch)
    first = [item for step in range(per_epoch) for item in step_items(step, items, train)]
    second = [item for step in range(per_epoch, 2 * per_epoch) for item in step_items(step, items, train)]
    assert sorted(first) == sorted(second) == list(range(items))
    assert items < 20 or first != second


def test_labels_point_at_the_token_before_and_never_across_items() -> None:
    data = ListItems([[5, 6, 7], [8, 9]], [[0, 1, 2], [1, 1]])
    batch = build_batch(data, [0, 1], Packing(1, 8, multiple=4), CPU)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 0, 0, 0]]
    assert batch.positions.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [6, 7, 9]
    assert batch.kinds.tolist() == [1, 2, 1]


def test_a_rank_without_items_runs_a_row_without_labels() -> None:
    data = ListItems([[5, 6, 7]], [[0, 1, 2]])
    batch = build_batch(data, [], Packing(1, 8), CPU)
    assert batch.input_ids.numel() == 3
    assert batch.positions.numel() == 0


def test_an_unpacked_row_is_the_item_alone() -> None:
    batch = build_batch(ListItems([[5, 6, 7]], [[0, 1, 2]]), [0], Packing(1, 8, packed=False, multiple=128), CPU)
    assert batch.input_ids.tolist() == [[5, 6, 7]]
    assert batch.model_inputs == {}


def test_the_plan_counts_labels_of_all_ranks() -> None:
    data = ListItems([[1, 2, 3]] * 10, [[0, 1, 2]] * 10)
    plan = plan_step(0, data, config(global_batch_size=8), Packing(3, 100))
    assert (plan.kept, plan.tokens, len(plan.items)) == (16, 24, 8)
