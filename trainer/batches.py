"""Which items a step trains, and the tensors of a row. How items become rows: trainer.schema.packing.

The items and the number of kept labels of a step depend on the seed and the data alone; packing only divides
them into rows and rows over ranks. Every rank computes the whole plan, so no collective is needed for it.
"""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from trainer.dataset.prepared import KIND_CONTEXT, Items
from trainer.fast.attention import packed_inputs, sent
from trainer.fast.loss import head_calls
from trainer.schema.config import TrainConfig
from trainer.schema.packing import Packing, Rows, pack
from trainer.schema.schedule import steps_per_epoch


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


def plan_step(step: int, data: Items, train: TrainConfig, packing: Packing, left_out: Collection[int] = ()) -> StepPlan:
    """The plan of update number `step` without the items `left_out`, the same on every rank."""
    gone = frozenset(left_out)
    chosen = [item for item in step_items(step, len(data), train) if item not in gone]
    rows = pack(chosen, [data.length(item) for item in chosen], packing)
    return StepPlan(chosen, rows, sum(data.kept(item) for item in chosen), sum(data.length(item) for item in chosen))


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
