"""How the items of a step become rows, and rows the ranks' work, from lengths alone: the trainer packs by it, and
kctl's plan counts by it.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

ROW_MULTIPLE = 128
"""Row lengths on a GPU are multiples of this, so that shapes are few."""
MOST_PAIRS = 10_000
"""Of members of two rows that are compared; rows of so many are level enough."""
Rows = list[list[int]]
"""Packed rows of one rank: item indices in order."""


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
