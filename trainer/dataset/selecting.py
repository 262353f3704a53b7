"""Which items are trained and which are held out: reading, sampling, dropping what is unusable, splitting, history.

Everything here is about text; nothing is tokenised yet.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset.chameleons import read_chameleons
from trainer.dataset.conversations import read_messages, read_prompt_completion
from trainer.dataset.history import Histories, collect_histories
from trainer.dataset.items import Item, Row
from trainer.dataset.sampling import sample_items
from trainer.dataset.splitting import COPY, Split, split_items, without_copies
from trainer.errors import DataError
from trainer.schema.data import Data, Prompt

_READERS = {"chameleons": read_chameleons, "messages": read_messages, "prompt_completion": read_prompt_completion}


@dataclass(frozen=True)
class Selection:
    """Both sides with their histories (empty ones where the block is off), and what happened on the way."""

    train: list[Item]
    held: list[Item]
    histories: tuple[Histories, Histories]
    rows: int
    users: int
    items_read: int
    items: int
    dropped: Counter[str]
    repeated_answers: int
    seen_validation_answers: int


def prompt_of(data: Data) -> Prompt | None:
    """The prompt that the format uses: None where the file has chats of its own."""
    return (data.prompt or Prompt()) if data.format == "chameleons" else None


def select(data: Data, root: Path) -> Selection:
    """Read and divide `data`, whose files lie below `root`. DataError where a file is bad or holds nothing."""
    path = root / data.path
    rows = _read(data.format, path)
    items = sample_items(rows, data.sample)
    read, used = sum(len(row.items) for row in rows), len(items)
    dropped: Counter[str] = Counter()
    usable = _usable(items, dropped)
    if data.validation.path is None:
        split = split_items(usable, data.validation)
    else:
        held = [item for row in _read(data.format, root / data.validation.path) for item in row.items]
        read, used = read + len(held), used + len(held)
        split = without_copies(usable, _usable(held, dropped))
    if split.copies:
        dropped[COPY] += split.copies
    prompt = prompt_of(data)
    histories: tuple[Histories, Histories] = ([()] * len(split.train), [()] * len(split.held))
    if prompt and "history" in prompt.blocks:
        histories = collect_histories(split.train, split.held, prompt.history_items)
    return Selection(
        split.train,
        split.held,
        histories,
        rows=len(rows),
        users=_users(rows),
        items_read=read,
        items=used,
        dropped=dropped,
        repeated_answers=len(split.train) - len({item.answer for item in split.train}),
        seen_validation_answers=_seen(split, histories[0], prompt is None or "context" in prompt.blocks),
    )


def _read(data_format: str, path: Path) -> list[Row]:
    rows = _READERS[data_format](path)
    if not any(row.items for row in rows):
        raise DataError(f"{path}: holds no items ({len(rows)} rows): is data.format {data_format} right?")
    return rows


def _usable(items: Sequence[Item], dropped: Counter[str]) -> list[Item]:
    dropped.update(item.flaw for item in items if item.flaw is not None)
    return [item for item in items if item.flaw is None]


def _users(rows: Sequence[Row]) -> int:
    """Different users; a row without a user counts as one."""
    return len({row.items[0].user.identity or f"row {row.key}" for row in rows if row.items})


def _seen(split: Split, histories: Histories, context_shown: bool) -> int:
    """Held-out answers found among the texts that training prompts show."""
    shown: set[str] = {line for history in histories for line in history}
    if context_shown:
        shown.update(turn.text for item in split.train for turn in item.turns)
    return sum(item.answer in shown for item in split.held)
