"""Items as training shows them to the model: the text, and which stretches of it are trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset.chat_template import load_chat
from trainer.dataset.drafts import Composer, Span
from trainer.dataset.encoding import Encoder
from trainer.dataset.formats import entries
from trainer.dataset.items import Item, build_row
from trainer.dataset.prepared import KIND_CONTEXT
from trainer.dataset.selecting import prompt_of, select
from trainer.dataset.source import Place
from trainer.dataset.tokenizer import control_tokens, load_tokenizer
from trainer.schema.data import Data


@dataclass(frozen=True)
class Preview:
    """One item. place: row, line, byte and item; number: of the item in the file, from 1. spans: what is trained.

    dropped: oldest turns and history lines that were left out so that it fits; flaw: why it is not trained, then there
    is no text.
    """

    place: Place
    number: int
    text: str = ""
    spans: tuple[Span, ...] = ()
    tokens: int = 0
    trained: int = 0
    dropped: int = 0
    flaw: str | None = None


def previews(data: Data, root: Path, model_folder: Path, first: int, count: int) -> Iterator[Preview]:
    """Items `first`, from 1, to first + count - 1 of the file. Where the prompt has a history block the whole file is
    read before, as training does.

    DataError: the file is wrong. ConfigError: the model folder's tokenizer or chat template cannot be used.
    """
    tokenizer = load_tokenizer(model_folder)
    controls = control_tokens(tokenizer)
    composer = Composer(load_chat(model_folder, controls), prompt_of(data), data.format == "messages")
    encoder = Encoder(tokenizer, composer, data.max_length, controls)
    known = _histories(data, root)
    for place, item in _items(data, root, first, count):
        history = known.get(item.order, ())
        number = item.order + 1
        ((_, encoded),) = encoder.encode([(item, history)])
        flaw = item.flaw or encoded.flaw
        if flaw is not None:
            yield Preview(place, number, flaw=flaw)
            continue
        draft = composer.compose(item, history, encoded.dropped)
        spans = draft.spans
        if composer.every_turn and not encoded.fallback:
            spans = composer.all_answers(item, encoded.dropped, draft).spans
        trained = len(encoded.kinds) - encoded.kinds.count(KIND_CONTEXT)
        yield Preview(place, number, draft.text, spans, len(encoded.tokens), trained, encoded.dropped)


def _items(data: Data, root: Path, first: int, count: int) -> Iterator[tuple[Place, Item]]:
    order = 0
    for entry in entries(data.format, root / data.path):
        for number, item in enumerate(build_row(entry.user, entry.examples, order).items, 1):
            if first <= item.order + 1 < first + count:
                yield entry.place.at(f"item {number}") if data.format == "chameleons" else entry.place, item
        order += len(entry.examples)
        if order >= first + count - 1:
            return


def _histories(data: Data, root: Path) -> dict[int, Sequence[str]]:
    """By the item's place in the file: the lines that its prompt shows."""
    prompt = prompt_of(data)
    if prompt is None or "history" not in prompt.blocks:
        return {}
    chosen = select(data, root)
    sides = zip((chosen.train, chosen.held), chosen.histories, strict=True)
    return {item.order: lines for items, histories in sides for item, lines in zip(items, histories, strict=True)}
