"""An item as the text that is tokenised, with the stretches of it that are trained.

Composed once whole and, where it is too long, again with its oldest parts left out; never cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.dataset.chat_template import Chat
from trainer.dataset.items import Item, Turn
from trainer.dataset.prompts import ANSWER_CLOSE, ANSWER_OPEN, dialogue_lines, render
from trainer.schema.data import Prompt


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) are trained, of which [own, own_end) are the answer itself."""

    start: int
    own: int
    own_end: int
    end: int


@dataclass(frozen=True, slots=True)
class Draft:
    """text with trained spans in order; fallback: only the last of several answers could be trained."""

    text: str
    spans: tuple[Span, ...]
    fallback: bool = False


@dataclass(frozen=True)
class Composer:
    """How items become drafts: with `prompt` style simple, else as chats; every_turn trains all answers of a chat."""

    chat: Chat
    prompt: Prompt | None
    every_turn: bool

    def compose(self, item: Item, history: Sequence[str], dropped: int = 0) -> Draft:
        """The draft without its `dropped` oldest parts; its last answer is trained. Raises template_errors()."""
        if self.prompt is not None:
            return self._simple(item, self.prompt, history, dropped)
        before = self.chat.prompt(_without_oldest(item.turns, dropped))
        text = before + item.answer + self.chat.end
        start = len(before)
        return Draft(text, (Span(start, start, start + len(item.answer), len(text)),))

    def all_answers(self, item: Item, dropped: int, draft: Draft) -> Draft:
        """The draft with every answer trained, if each stands there whole, after the prompt generation would see."""
        turns = _without_oldest(item.turns, dropped)
        spans = []
        for index, turn in enumerate(turns):
            if turn.role != "assistant" or index == 0 or not turn.text:
                continue
            before = self.chat.prompt(turns[:index])
            expected = before + turn.text + self.chat.end
            if not draft.text.startswith(expected):
                return Draft(draft.text, draft.spans, fallback=True)
            spans.append(Span(len(before), len(before), len(before) + len(turn.text), len(expected)))
        return Draft(draft.text, (*spans, *draft.spans))

    def droppable(self, item: Item, history: Sequence[str]) -> list[str]:
        """Texts of the parts that may be left out, in that order: oldest turns but the last, then oldest history."""
        if self.prompt is None:
            return [self._part_text(part) for part in _parts(item.turns)[:-1]]
        lines = [f"{line}\n" for line in dialogue_lines(item, self.prompt)[:-1]]
        return lines + ([f"1. {line[:200]}\n" for line in history] if "history" in self.prompt.blocks else [])

    def _simple(self, item: Item, prompt: Prompt, history: Sequence[str], dropped: int) -> Draft:
        turns = min(dropped, max(len(dialogue_lines(item, prompt)) - 1, 0))
        rendered = render(item, prompt, history[dropped - turns :], turns)
        before = self.chat.prompt([Turn("system", rendered.system)])
        own = len(before) + len(ANSWER_OPEN)
        text = before + rendered.answer + self.chat.end
        own_end = len(before) + len(rendered.answer) - len(ANSWER_CLOSE)
        return Draft(text, (Span(len(before), own, own_end, len(text)),))

    def _part_text(self, part: Sequence[Turn]) -> str:
        opener = self.chat.opener or ""
        return "".join(f"{opener}{turn.role}\n{turn.text}{self.chat.end}\n" for turn in part)


def _parts(turns: Sequence[Turn]) -> list[list[Turn]]:
    """The turns after a leading system turn, cut before every user turn, so that roles still alternate."""
    parts: list[list[Turn]] = []
    for turn in turns[1:] if turns and turns[0].role == "system" else turns:
        if turn.role == "user" or not parts:
            parts.append([turn])
        else:
            parts[-1].append(turn)
    return parts


def _without_oldest(turns: Sequence[Turn], dropped: int) -> Sequence[Turn]:
    if dropped == 0:
        return turns
    system = turns[:1] if turns[0].role == "system" else ()
    return [*system, *(turn for part in _parts(turns)[dropped:] for turn in part)]
