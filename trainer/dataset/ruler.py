"""How long items are: exactly, by the model folder's tokenizer and chat template, or estimated from their bytes.

An estimate takes BYTES_PER_TOKEN and TURN_TOKENS for every text and every template. It is good for a first look at a
file: another script, another tokenizer and short texts differ.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

from trainer.dataset.chat_template import load_chat
from trainer.dataset.drafts import Composer
from trainer.dataset.encoding import Encoder
from trainer.dataset.formats import Format
from trainer.dataset.items import Example, Item, Turn, User
from trainer.dataset.prepared import KIND_CONTEXT
from trainer.dataset.prompts import ANSWER_CLOSE, ANSWER_OPEN, render
from trainer.dataset.tokenizer import control_tokens, load_tokenizer
from trainer.schema.data import Prompt

BYTES_PER_TOKEN = 3.9
"""Of UTF-8: measured on the dialogue of Shakespeare's plays (the demo's) with Qwen3's tokenizer."""
HEX_PER_TOKEN = 1.13
"""Digits of a hash, measured with the tokenizers of Qwen3 and SmolLM2."""
TURN_TOKENS = 5
"""ChatML around a turn: its two control tokens, the role and two line ends."""
_NO_LIMIT = 1 << 40
_HASH = re.compile("[0-9a-f]{16,}")


@dataclass(frozen=True)
class How:
    """How a file is read and measured. prompt: of format chameleons; tokenizer: a model folder, None to estimate."""

    format: Format
    prompt: Prompt | None
    max_lengths: tuple[int, ...] = ()
    tokenizer: Path | None = None


class Measured(NamedTuple):
    """One item. trained: those of its tokens that count in the loss; flaw: why it cannot be used at any length.

    cut: for each of How.max_lengths that it is longer than, the (tokens, trained) that are left, None if it is dropped.
    """

    tokens: int
    trained: int
    flaw: str | None = None
    cut: dict[int, tuple[int, int] | None] | None = None


Ruler = Callable[[Sequence[tuple[User, Example]]], Iterator[Measured]]
"""Measures usable items, in order."""


def ruler(how: How) -> Ruler:
    """ConfigError where the model folder has no tokenizer or chat template that can be used."""
    return _estimating(how) if how.tokenizer is None else _tokenising(how, how.tokenizer)


def _tokenising(how: How, folder: Path) -> Ruler:
    tokenizer = load_tokenizer(folder)
    controls = control_tokens(tokenizer)
    composer = Composer(load_chat(folder, controls), how.prompt, every_turn=how.format == "messages")
    whole = Encoder(tokenizer, composer, _NO_LIMIT, controls)
    shortened = {most: Encoder(tokenizer, composer, most, controls) for most in how.max_lengths}

    def measure(examples: Sequence[tuple[User, Example]]) -> Iterator[Measured]:
        items = (Item(user, e.turns, e.answer, e.query, e.time, 0, "", "", None) for user, e in examples)
        for item, encoded in whole.encode((item, ()) for item in items):
            tokens = len(encoded.tokens)
            cut: dict[int, tuple[int, int] | None] = {}
            for most, encoder in shortened.items():
                if tokens > most:
                    ((_, short),) = encoder.encode([(item, ())])
                    cut[most] = None if short.flaw else (len(short.tokens), _trained(short.kinds))
            yield Measured(tokens, _trained(encoded.kinds), encoded.flaw, cut)

    return measure


def _trained(kinds: bytes) -> int:
    return len(kinds) - kinds.count(KIND_CONTEXT)


def _estimating(how: How) -> Ruler:
    prompt = how.prompt
    fixed = 2 * TURN_TOKENS * BYTES_PER_TOKEN + _frame(prompt)
    around = len(ANSWER_OPEN + ANSWER_CLOSE) if prompt else 0
    a_turn = len("Assistant: \n") if prompt else TURN_TOKENS * BYTES_PER_TOKEN
    context = prompt is None or "context" in prompt.blocks
    least = min(how.max_lengths, default=_NO_LIMIT)

    def measure(examples: Sequence[tuple[User, Example]]) -> Iterator[Measured]:
        for user, example in examples:
            texts = [turn.text for turn in example.turns] if context else []
            tags = user.tags if prompt and "profile" in prompt.blocks else ()
            answers = [example.answer]
            if how.format == "messages":
                answers += [turn.text for turn in example.turns if turn.role == "assistant"]
            size = fixed + _bytes("\n".join((*tags, *texts, example.query, example.answer))) + a_turn * len(texts)
            if prompt:
                size += _identity(user.identity)
            trained = _tokens(_bytes("".join(answers)) + around) + len(answers)
            tokens = _tokens(size)
            cut = (
                {m: _cut(tokens, trained, texts, m) for m in how.max_lengths if tokens > m} if tokens > least else None
            )
            yield Measured(tokens, trained, None, cut)

    return measure


def _cut(tokens: int, trained: int, texts: Sequence[str], most: int) -> tuple[int, int] | None:
    for text in texts[:-1]:
        tokens -= _tokens(_bytes(text))
        if tokens <= most:
            return tokens, min(trained, tokens)
    return None


def _frame(prompt: Prompt | None) -> int:
    """Bytes of a prompt in which nothing stands yet."""
    if prompt is None:
        return 0
    empty = render(Item(User("-"), (Turn("user", ""),), "", "", None, 0, "", "", None), prompt, ())
    return _bytes(empty.system + empty.answer)


def _identity(identity: str | None) -> float:
    """Bytes of ordinary text that take as many tokens."""
    if identity is None:
        return 0
    return len(identity) * BYTES_PER_TOKEN / HEX_PER_TOKEN if _HASH.fullmatch(identity) else _bytes(identity)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _tokens(size: float) -> int:
    return ceil(size / BYTES_PER_TOKEN)
