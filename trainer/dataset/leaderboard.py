"""Test files: format chameleons without the answers. Prompts as in training, and the file again with continuations."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.dataset.chameleons import read_chameleons
from trainer.dataset.chat_template import load_chat
from trainer.dataset.drafts import Composer
from trainer.dataset.encoding import Encoder
from trainer.dataset.history import Histories, collect_histories
from trainer.dataset.items import Item, content_key
from trainer.dataset.json_array import json_rows
from trainer.dataset.prepared import KIND_CONTEXT
from trainer.dataset.prompts import ANSWER_CLOSE, ANSWER_OPEN
from trainer.dataset.selecting import prompt_of, select
from trainer.dataset.tokenizer import control_tokens, load_tokenizer
from trainer.errors import ConfigError, DataError
from trainer.schema.data import Data

_AFTER_ALL = 1 << 40
"""Added to the order of test items: where nothing has a time, all that is trained was said before."""


@dataclass(frozen=True)
class Asked:
    """One item. key: of its content, with a number behind it where the file repeats it. prompt: token ids up to
    where the answer begins, empty where there can be none (`flaw` says why); end: the token that ends an answer."""

    key: str
    prompt: tuple[int, ...]
    end: int
    flaw: str | None = None


def asked(data: Data, root: Path, model_folder: Path, path: Path) -> list[Asked]:
    """Every item of the test file at `path`, in its order, prompted as the run trained; its answers are not looked at.

    ConfigError for a run of another format; DataError where the test file, or the training file that histories come
    from, cannot be used.
    """
    if data.format != "chameleons":
        raise ConfigError(
            f"train.data.format is {data.format}: test files are of format chameleons; train on that first"
        )
    items = [_blank(item) for row in read_chameleons(path) for item in row.items]
    if not items:
        raise DataError(f"{path}: holds no items: a test file is a JSON array of users with data to continue")
    tokenizer = load_tokenizer(model_folder)
    controls = control_tokens(tokenizer)
    composer = Composer(load_chat(model_folder, controls), prompt_of(data), every_turn=False)
    encoder = Encoder(tokenizer, composer, data.max_length, controls)
    seen: Counter[str] = Counter()
    found = []
    for item, encoded in encoder.encode(zip(items, _histories(data, root, items), strict=True)):
        seen[item.key] += 1
        key = item.key if seen[item.key] == 1 else f"{item.key}-{seen[item.key]}"
        if encoded.flaw is not None:
            found.append(Asked(key, (), 0, encoded.flaw))
            continue
        start = next(place for place, kind in enumerate(encoded.kinds) if kind != KIND_CONTEXT)
        found.append(Asked(key, tuple(encoded.tokens[:start]), encoded.tokens[-1]))
    return found


def _blank(item: Item) -> Item:
    """The item without its answer, so that nothing depends on whether the file has one."""
    key = content_key(item.user.identity, item.turns, item.query)
    return replace(item, answer="", key=key, order=item.order + _AFTER_ALL)


def _histories(data: Data, root: Path, items: Sequence[Item]) -> Histories:
    prompt = prompt_of(data)
    if prompt is None or "history" not in prompt.blocks:
        return [()] * len(items)
    return collect_histories(select(data, root).train, items, prompt.history_items)[1]


def reply(text: str, ended: bool) -> str | None:
    """What stands between the answer tags of a generated text; None where nothing does, or it never ended."""
    _, opened, after = text.partition(ANSWER_OPEN.strip())
    said, closed, _ = (after if opened else text).partition(ANSWER_CLOSE.strip())
    return (said.strip() or None) if ended or closed else None


def with_continuations(path: Path, continuations: Mapping[int, Sequence[str | None]]) -> str:
    """The test file as JSON, each data item (by its number in the file) with its continuations in it."""
    rows = [value for _, value in json_rows(path)]
    for number, item in enumerate(_data_items(rows)):
        item["continuations"] = list(continuations[number])
    alone = path.read_text(encoding="utf-8-sig").lstrip().startswith("{")
    return json.dumps(rows[0] if alone else rows, ensure_ascii=False, indent=2) + "\n"


def _data_items(rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """In the order in which read_chameleons has them."""
    for row in rows:
        for collection in (row.get("task") or {}).get("task_behavior_collections") or []:
            yield from collection.get("data") or []
