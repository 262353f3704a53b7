"""Prompt style simple: ONE function turns an item into text, for training, evaluation and generation alike.

One system message with tagged blocks, then the assistant's header from the chat template; the answer between tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.dataset.items import Item
from trainer.schema.data import Prompt

ANSWER_OPEN = "[ANSWER]\n"
ANSWER_CLOSE = "\n[/ANSWER]"
_SPEAKER = {"user": "User: ", "assistant": "Assistant: "}
_LONGEST_HISTORY = 200
"""Characters of a history line; longer ones are cut to 197 and get three dots."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """system: the whole prompt's text; answer: the continuation between its tags, without an end token."""

    system: str
    answer: str


def render(item: Item, prompt: Prompt, history: Sequence[str], turns_dropped: int = 0) -> Rendered:
    """The item's text; `history` oldest first, the oldest `turns_dropped` turns left out."""
    blocks = []
    if item.user.identity:
        blocks.append(f"[USER_HASH={item.user.identity}]")
    if "profile" in prompt.blocks and item.user.tags:
        blocks.append("\n".join(("[USER_PROFILE]", *item.user.tags)))
    blocks.append(f"[TASK]\n{prompt.task}")
    if "history" in prompt.blocks and history:
        numbered = (f"{number}. {_history_line(line)}" for number, line in enumerate(history, 1))
        blocks.append("\n".join(("[HISTORY]", *numbered)))
    turns = dialogue_lines(item, prompt)[turns_dropped:]
    if turns:
        blocks.append("\n".join(("[RECENT_DIALOGUE]", *turns)))
    if item.query:
        blocks.append(f"[QUERY]\n{item.query}")
    blocks.append(prompt.instruction)
    return Rendered("\n\n".join(blocks), f"{ANSWER_OPEN}{item.answer}{ANSWER_CLOSE}")


def dialogue_lines(item: Item, prompt: Prompt) -> list[str]:
    """The context as lines, oldest first; none where the block is off."""
    if "context" not in prompt.blocks:
        return []
    return [_SPEAKER[turn.role] + turn.text for turn in item.turns]


def _history_line(line: str) -> str:
    flat = " ".join(line.split())
    return flat if len(flat) <= _LONGEST_HISTORY else flat[: _LONGEST_HISTORY - 3] + "..."
