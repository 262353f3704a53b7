"""Drafts to token ids and kinds: which tokens are trained, decided once, exactly, from one tokenisation.

The prompt's tokens must be a prefix of the whole's. A control token is a hard boundary for the tokenizer, so it is
enough that what follows the prompt's last control token is tokenised alike alone and in place.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.dataset.chat_template import template_errors
from trainer.dataset.drafts import Composer, Draft
from trainer.dataset.items import Item
from trainer.dataset.lengths import fewest_dropped
from trainer.dataset.pieces import Tokeniser, Tokens
from trainer.dataset.prepared import KIND_ANSWER, KIND_FRAME
from trainer.dataset.tokenizer import control_pattern

TOO_LONG = "does not fit max_length"
NOT_PREFIX = "prompt and answer share a token"
CONTROL = "text spells a control token of the tokenizer"
REFUSED = "turns refused by the chat template"
_BATCH_CHARACTERS = 1 << 20
_BATCH_ITEMS = 1024
_HEADER_CHARACTERS = 200
"""Longer texts between a control token and an answer are no header, and not worth remembering."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item's tokens and kinds, or why there are none (`flaw`); dropped: parts left out so that it fits."""

    tokens: "array[int]"
    kinds: bytes
    dropped: int = 0
    fallback: bool = False
    flaw: str | None = None


Pair = tuple[Item, Sequence[str]]
"""An item and the lines of its history."""
_Batch = list[tuple[Pair, Draft | str]]
"""Pairs with their drafts, or with the reason why there is none."""


class Encoder:
    """Tokenises batch by batch; remembers the few texts that follow a prompt's last control token."""

    def __init__(self, tokenizer: Any, composer: Composer, max_length: int, controls: frozenset[str]) -> None:
        self._tokens, self._composer, self._max = Tokeniser(tokenizer), composer, max_length
        self._spelt = control_pattern(controls)
        self._tails: dict[str, list[int]] = {}

    def encode(self, pairs: Iterable[Pair]) -> Iterator[tuple[Item, Encoded]]:
        """Every pair's item with its tokens, in order."""
        for batch in self._batches(pairs):
            tokenised = iter(self._tokens.batch([draft.text for _, draft in batch if isinstance(draft, Draft)]))
            for pair, draft in batch:
                if isinstance(draft, str):
                    yield pair[0], _refused(draft)
                else:
                    yield pair[0], self._finish(pair, draft, next(tokenised))

    def _batches(self, pairs: Iterable[Pair]) -> Iterator["_Batch"]:
        batch: _Batch = []
        characters = 0
        for pair in pairs:
            draft = self._draft(pair)
            batch.append((pair, draft))
            characters += len(draft.text) if isinstance(draft, Draft) else 0
            if characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_ITEMS:
                yield batch
                batch, characters = [], 0
        if batch:
            yield batch

    def _draft(self, pair: Pair) -> Draft | str:
        """The whole item's draft, or why there can be none."""
        item, history = pair
        texts = [item.answer, item.query, item.user.identity or "", *item.user.tags, *history]
        texts += [turn.text for turn in item.turns]
        if self._spelt.search("\n".join(texts)):
            return CONTROL
        try:
            return self._composer.compose(item, history)
        except template_errors():
            return REFUSED

    def _finish(self, pair: Pair, draft: Draft, tokens: Tokens) -> Encoded:
        dropped, ids = 0, tokens.ids
        if len(ids) > self._max:
            fitting = self._shorten(pair, len(ids) - self._max)
            if fitting is None:
                return _refused(TOO_LONG)
            dropped, draft, tokens = fitting
            ids = tokens.ids
        if self._composer.every_turn:
            draft = self._composer.all_answers(pair[0], dropped, draft)
        kinds = self._kinds(draft, tokens, ids)
        if kinds is None and len(draft.spans) > 1:
            draft = Draft(draft.text, draft.spans[-1:], fallback=True)
            kinds = self._kinds(draft, tokens, ids)
        if kinds is None:
            return _refused(NOT_PREFIX)
        return Encoded(array("i", ids), kinds, dropped, draft.fallback)

    def _shorten(self, pair: Pair, over: int) -> tuple[int, Draft, Tokens] | None:
        """The longest version that fits: (parts left out, draft, tokens); None if even the shortest does not."""
        costs = [len(part.ids) for part in self._tokens.batch(self._composer.droppable(*pair))]
        tried: dict[int, tuple[int, Draft, Tokens]] = {}

        def fits(dropped: int) -> bool:
            draft = self._composer.compose(*pair, dropped)
            tried[dropped] = dropped, draft, self._tokens.batch([draft.text])[0]
            return len(tried[dropped][2].ids) <= self._max

        try:
            best = fewest_dropped(costs, over, fits)
        except template_errors():
            return None
        return None if best is None else tried[best]

    def _kinds(self, draft: Draft, tokens: Tokens, ids: list[int]) -> bytes | None:
        """A kind for every token; None where a prompt's tokens are no prefix."""
        kinds = bytearray(len(ids))
        for span in draft.spans:
            first = self._first_trained(draft.text, span.start, tokens, ids)
            if first is None:
                return None
            last = _token_from(tokens, span.end, len(draft.text), len(ids))
            own_end = _token_from(tokens, span.own_end, span.end, last)
            own = min(_token_holding(tokens, span.own, span.own_end, own_end), own_end)
            kinds[first:last] = bytes([KIND_FRAME]) * (last - first)
            kinds[own:own_end] = bytes([KIND_ANSWER]) * (own_end - own)
        return bytes(kinds)

    def _first_trained(self, text: str, start: int, tokens: Tokens, ids: list[int]) -> int | None:
        """Index of the token that begins at character `start`, if the tokens before it are those of text[:start]."""
        found = tokens.holding(start)
        if found is None or found[1] != start:
            return None
        opener = self._composer.chat.opener
        at = text.rfind(opener, 0, start) if opener else -1
        expected = self._tail(text[max(at, 0) : start])
        begin = found[0] - len(expected) if at >= 0 else 0
        return found[0] if begin >= 0 and ids[begin : found[0]] == expected else None

    def _tail(self, text: str) -> list[int]:
        known = self._tails.get(text)
        if known is None:
            known = self._tokens.whole(text)
            if len(text) <= _HEADER_CHARACTERS:
                self._tails[text] = known
        return known


def _refused(flaw: str) -> Encoded:
    return Encoded(array("i"), b"", flaw=flaw)


def _token_holding(tokens: Tokens, character: int, stop: int, otherwise: int) -> int:
    """The first token with the character, or with a later one before `stop` (a normaliser may swallow some)."""
    found = (tokens.holding(position) for position in range(character, stop))
    return next((token[0] for token in found if token is not None), otherwise)


def _token_from(tokens: Tokens, character: int, stop: int, otherwise: int) -> int:
    """The first token that begins at or behind the character, looking no further than `stop`."""
    for position in range(character, stop):
        found = tokens.holding(position)
        if found is not None and found[1] >= character:
            return found[0]
    return otherwise
