"""Texts to tokens, fast where it can be exact: most words of a corpus repeat, so each is tokenised once.

A byte-level BPE tokenizer first splits at added tokens, then by a regular expression, and treats every piece on its
own. For ASCII text and the one expression known here Python's `re` splits alike (a property test compares); every
other text or tokenizer goes through `tokenizers` whole.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Protocol

_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 split text."""
_QWEN_ASCII = (
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]| ?[^ \t-\rA-Za-z0-9]+[\r\n]*"
    r"|[ \t-\r]*[\r\n]+|[ \t-\r]+(?![^ \t-\r])|[ \t-\r]+"
)
_SAME_ON_ASCII = (None, "NFC", "NFD", "NFKC", "NFKD")
_MOST_WORDS = 1_000_000
"""Different pieces that are remembered; beyond that all are forgotten."""


class Tokens(Protocol):
    """One tokenised text."""

    @property
    def ids(self) -> list[int]: ...

    def holding(self, character: int) -> tuple[int, int] | None:
        """The first token that holds the character, and the first character of that token."""
        ...


@dataclass(frozen=True, slots=True)
class WholeTokens:
    """As `tokenizers` gave them."""

    encoding: Any

    @property
    def ids(self) -> list[int]:
        return list(self.encoding.ids)

    def holding(self, character: int) -> tuple[int, int] | None:
        token = self.encoding.char_to_token(character)
        return None if token is None else (token, self.encoding.token_to_chars(token)[0])


class PieceTokens:
    """Put together from the tokens of the pieces; ASCII only, so that a token's bytes are its characters."""

    def __init__(self, pieces: list[str], tokens: list[tuple[int, ...]], tokenizer: Any) -> None:
        self.ids = list(chain.from_iterable(tokens))
        self._pieces, self._tokens, self._tokenizer = pieces, tokens, tokenizer
        self._ends: list[int] = []
        self._counts: list[int] = []

    def holding(self, character: int) -> tuple[int, int] | None:
        if not self._ends:
            self._ends = list(accumulate(map(len, self._pieces)))
            self._counts = list(accumulate(map(len, self._tokens)))
        piece = bisect_right(self._ends, character)
        if piece == len(self._pieces):
            return None
        end = self._ends[piece] - len(self._pieces[piece])
        tokens = self._tokens[piece]
        first = self._counts[piece] - len(tokens)
        if len(tokens) == 1:
            return first, end
        for place, token in enumerate(tokens):
            start, end = end, end + len(self._tokenizer.id_to_token(token))
            if character < end:
                return first + place, start
        return None


class Tokeniser:
    """Tokenises texts without adding special tokens; remembers the pieces it has seen."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}
        self._added = _added_pattern(tokenizer)

    def whole(self, text: str) -> list[int]:
        """Token ids of one text, by `tokenizers` itself."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def batch(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of every text."""
        split = {i: self._split(text) for i, text in enumerate(texts) if self._added is not None and text.isascii()}
        self._learn(list(split.values()))
        others = [text for i, text in enumerate(texts) if i not in split]
        encodings = iter(self._tokenizer.encode_batch(others, add_special_tokens=False) if others else ())
        known = self._known
        return [
            PieceTokens(split[i], [known[piece] for piece in split[i]], self._tokenizer)
            if i in split
            else WholeTokens(next(encodings))
            for i in range(len(texts))
        ]

    def _split(self, text: str) -> list[str]:
        assert self._added is not None
        pieces: list[str] = []
        for place, part in enumerate(self._added.split(text)):
            if place % 2:
                pieces.append(part)
            elif part:
                pieces += _WORDS.findall(part)
        return pieces

    def _learn(self, split: list[list[str]]) -> None:
        if len(self._known) > _MOST_WORDS:
            self._known.clear()
        new = list(set(chain.from_iterable(split)).difference(self._known))
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False) if new else ()
        for piece, encoding in zip(new, encodings, strict=True):
            self._known[piece] = tuple(encoding.ids)


_WORDS = re.compile(_QWEN_ASCII)


def _added_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    """Splits text at added tokens, longest first; None where the tokenizer may do more than is done here."""
    steps = _state(tokenizer.pre_tokenizer).get("pretokenizers") or []
    plain = (
        _state(tokenizer.normalizer).get("type") in _SAME_ON_ASCII
        and type(tokenizer.model).__name__ == "BPE"
        and not tokenizer.model.dropout
        and len(steps) == 2
        and steps[0].get("pattern") == {"Regex": _QWEN}
        and (steps[0].get("behavior"), steps[0].get("invert")) == ("Isolated", False)
        and steps[1].get("type") == "ByteLevel"
        and not steps[1].get("add_prefix_space")
        and not steps[1].get("use_regex")
    )
    added = tokenizer.get_added_tokens_decoder().values()
    if not plain or any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added):
        return None
    longest_first = sorted((token.content for token in added), key=lambda text: (-len(text), text))
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else re.compile(r"((?!))")


def _state(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as its file describes it; empty where there is none."""
    return dict(json.loads(part.__getstate__())) if part is not None else {}
