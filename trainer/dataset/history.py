"""What a user said before: the history block, from training items only.

Each user's items are walked once in time order, so the work is linear. Order is time where the file has times (an
item without one follows the item before it in the file), else the order of the file.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Sequence

from trainer.dataset.items import Item

Histories = list[tuple[str, ...]]
"""For each item the chosen lines, oldest first."""


def collect_histories(train: Sequence[Item], held: Sequence[Item], limit: int) -> tuple[Histories, Histories]:
    """For every training and every held-out item the user's latest `limit` earlier, different training lines.

    Never the item's own line, one that is held out from the same user, or one that the item's context shows.
    """
    chosen: tuple[Histories, Histories] = ([()] * len(train), [()] * len(held))
    users: dict[str, list[tuple[int, int, Item]]] = defaultdict(list)
    for side, items in enumerate((train, held)):
        for index, item in enumerate(items):
            if item.user.identity is not None:
                users[item.user.identity].append((side, index, item))
    for entries in users.values():
        hidden = {item.line for side, _, item in entries if side == 1}
        seen: OrderedDict[str, None] = OrderedDict()
        for side, index, item in _in_time(entries):
            chosen[side][index] = _latest(seen, item, limit)
            if side == 0 and item.line not in hidden:
                seen[item.line] = None
                seen.move_to_end(item.line)
    return chosen


def _in_time(entries: list[tuple[int, int, Item]]) -> list[tuple[int, int, Item]]:
    ordered = sorted(entries, key=lambda entry: entry[2].order)
    now = float("-inf")
    keyed = []
    for place, entry in enumerate(ordered):
        time = entry[2].time
        now = now if time is None else time
        keyed.append((now, place, entry))
    return [entry for _, _, entry in sorted(keyed, key=lambda key: key[:2])]


def _latest(seen: OrderedDict[str, None], item: Item, limit: int) -> tuple[str, ...]:
    shown = {turn.text for turn in item.turns}
    found: list[str] = []
    for line in reversed(seen):
        if len(found) == limit:
            break
        if line != item.line and line not in shown:
            found.append(line)
    return tuple(reversed(found))
