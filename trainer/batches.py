"""Which items a step trains, how they are packed into rows, and the tensors of a row.

The items and the number of kept labels of a step depend on the seed and the data alone; packing only divides
them into rows and rows over ranks. Every rank computes the whole plan, so no collective is needed for it.
"""

import heapq
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from trainer.dataset.prepared import KIND_CONTEXT, Items
from trainer.fast.attention import packed_inputs, sent
from trainer.fast.loss import head_calls
from trainer.schedule import steps_per_epoch
from trainer.schema.config import TrainConfig

MOST_PAIRS = 10_000
"""Of members of two rows that are compared; rows of so many are level enough."""
Rows = list[list[int]]
"""Packed rows of one rank: item indices in order."""


@dataclass(frozen=True)
class StepPlan:
    """One optimiser update: rows[rank] are that rank's packed rows, `kept` the labels of all ranks together."""

    items: list[int]
    rows: list[Rows]
    kept: int
    tokens: int


@dataclass(frozen=True)
class Batch:
    """A packed row on the device. `targets[j]` is predicted from position `positions[j]`; both (labels,)."""

    input_ids: torch.Tensor
    model_inputs: dict[str, Any]
    positions: torch.Tensor
    targets: torch.Tensor
    kinds: torch.Tensor
    head_calls: int = 0
    """How often every rank runs the output head for its row; 0: as its labels need."""


@lru_cache(maxsize=2)
def epoch_order(items: int, seed: int, epoch: int) -> list[int]:
    """The epoch's permutation of the items; a function of its arguments alone."""
    order = list(range(items))
    random.Random(f"order-{seed}-{epoch}").shuffle(order)
    return order


def step_items(step: int, items: int, train: TrainConfig) -> list[int]:
    """Items of update number `step` (from 0)."""
    epoch, place = divmod(step, steps_per_epoch(items, train))
    size = train.global_batch_size
    return epoch_order(items, train.seed, epoch)[place * size : (place + 1) * size]


def plan_step(
    step: int, data: Items, train: TrainConfig, packing: "Packing", left_out: Collection[int] = ()
) -> StepPlan:
    """The plan of update number `step` without the items `left_out`, the same on every rank."""
    gone = frozenset(left_out)
    chosen = [item for item in step_items(step, len(data), train) if item not in gone]
    rows = pack(chosen, [data.length(item) for item in chosen], packing)
    return StepPlan(chosen, rows, sum(data.kept(item) for item in chosen), sum(data.length(item) for item in chosen))


@dataclass(frozen=True)
class Packing:
    """How rows are made: at most `ceiling` tokens a row, over `ranks` ranks; not `packed`: one item a row.

    Packed rows are padded to a multiple of `multiple` tokens, so that shapes are few.
    """

    ranks: int
    ceiling: int
    packed: bool = True
    equal_rows: bool = False
    """Under ZeRO-3 every rank must run the same number of forwards: short ranks get empty rows."""
    multiple: int = 1


def pack(items: Sequence[int], lengths: Sequence[int], packing: Packing) -> list[Rows]:
    """Divide items into rows of at most `ceiling` tokens and rows over ranks, both balanced by tokens.

    Longest first, each to the emptiest row that holds it (a longer item than the ceiling gets its own row).
    """
    by_length = sorted(range(len(items)), key=lambda i: (-lengths[i], i))
    wanted = max(packing.ranks, -(-sum(lengths) // packing.ceiling)) if packing.packed else len(items)
    rows: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(min(wanted, len(items)))]
    for i in by_length:
        used, number, members = heapq.heappop(rows)
        if members and (not packing.packed or used + lengths[i] > packing.ceiling):
            heapq.heappush(rows, (used, number, members))
            used, number, members = 0, len(rows), []
        members.append(i)
        heapq.heappush(rows, (used + lengths[i], number, members))
    if packing.packed and packing.multiple > 1:
        level([members for _, _, members in rows], lengths, packing.multiple)
    rows = [(sum(lengths[i] for i in members), number, [items[i] for i in members]) for _, number, members in rows]
    ranks: list[tuple[int, int, Rows]] = [(0, rank, []) for rank in range(packing.ranks)]
    for used, _, members in sorted(rows, key=lambda row: (-row[0], row[1])):
        load, rank, own = heapq.heappop(ranks)
        heapq.heappush(ranks, (load + used, rank, [*own, members]))
    result = [own for _, _, own in sorted(ranks, key=lambda entry: entry[1])]
    most = max(len(own) for own in result) if packing.equal_rows else 1
    return [own + [[]] * (most - len(own)) for own in result]


def level(rows: list[list[int]], lengths: Sequence[int], multiple: int) -> None:
    """Exchange members of the longest and the shortest row while the longest is more multiples long than the mean.

    Rows of equal length leave no rank waiting for another; padded, they are as short as can be.
    """
    loads = [sum(lengths[i] for i in members) for members in rows]
    target = -(-sum(loads) // (len(loads) * multiple)) * multiple
    while max(loads) > target:
        high, low = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[high] - loads[low]
        if len(rows[high]) * len(rows[low]) > MOST_PAIRS:
            return
        # What goes from high to low, less what comes back, moves both towards the middle: nothing may come back.
        moves = [(lengths[i] - back, i, j) for i in rows[high] for j, back in _with_none(rows[low], lengths)]
        moved, i, j = min(moves, key=lambda move: (abs(gap - 2 * move[0]), move[1:]))
        if abs(gap - 2 * moved) >= gap or (j < 0 and len(rows[high]) == 1):
            return
        rows[high].remove(i)
        rows[low].append(i)
        if j >= 0:
            rows[low].remove(j)
            rows[high].append(j)
        loads[high], loads[low] = loads[high] - moved, loads[low] + moved


def _with_none(members: list[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    return [(-1, 0), *((j, lengths[j]) for j in members)]


def build_batches(data: Items, rows: list[Rows], rank: int, packing: Packing, device: torch.device) -> Iterator[Batch]:
    """The rank's rows (of all ranks' `rows`), each as build_batch makes it; a rank without any gets an empty one."""
    for place, members in enumerate(rows[rank] or [[]]):
        batch = build_batch(data, members, packing, device)
        if packing.equal_rows:
            most = max(sum(data.kept(item) for item in own[place]) for own in rows)
            batch = replace(batch, head_calls=head_calls(most))
        yield batch


def build_batch(data: Items, members: list[int], packing: Packing, device: torch.device) -> Batch:
    """Tensors of one row; a packed one is padded at its end with a document of its own.

    A row without members (a rank that has nothing in this step) is the data's first item without labels.
    """
    shown = members or [0]
    tokens = [torch.frombuffer(bytearray(data.tokens(item)), dtype=torch.int32) for item in shown]
    kinds = [torch.frombuffer(bytearray(data.kinds(item)), dtype=torch.uint8) for item in shown]
    lengths = [len(part) for part in tokens]
    pad = -sum(lengths) % packing.multiple if packing.packed else 0
    if pad:
        tokens.append(torch.zeros(pad, dtype=torch.int32))
        kinds.append(torch.zeros(pad, dtype=torch.uint8))
        lengths.append(pad)
    row, kind = torch.cat(tokens).long(), torch.cat(kinds)
    if not members:
        kind = torch.zeros_like(kind)
    # The first token of an item has no predecessor in its document, so it is never a label.
    starts = torch.tensor(lengths).cumsum(0)[:-1]
    kind[0] = KIND_CONTEXT
    kind[starts] = KIND_CONTEXT
    labels = (kind != KIND_CONTEXT).nonzero().squeeze(1)
    return Batch(
        sent(row[None], device),
        packed_inputs(lengths, device) if packing.packed else {},
        sent(labels - 1, device),
        sent(row[labels], device),
        sent(kind[labels], device),
    )
