"""The whole preparation: select, render, tokenise, store, report.

Runs once, in the launcher, before any process of the training starts.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from trainer.dataset.chat_template import load_chat
from trainer.dataset.drafts import Composer
from trainer.dataset.encoding import Encoded, Encoder
from trainer.dataset.prepared import REPORT, SPLITS, ItemsWriter
from trainer.dataset.report import Report, length_facts
from trainer.dataset.selecting import Selection, prompt_of, select
from trainer.dataset.tokenizer import control_tokens, load_tokenizer, tokenizer_digest
from trainer.errors import DataError, RunsFolderError
from trainer.schema.data import Data

_SAY_EVERY = 20_000


@dataclass
class _Counts:
    """What is counted while items are tokenised."""

    dropped: Counter[str]
    lengths: list[int] = field(default_factory=list)
    """Tokens of the training items."""
    kept: Counter[str] = field(default_factory=Counter)
    trained_tokens: int = 0
    shortened: int = 0
    turns_dropped: int = 0
    fallbacks: int = 0

    def add(self, split: str, encoded: Encoded) -> None:
        self.kept[split] += 1
        self.shortened += encoded.dropped > 0
        self.turns_dropped += encoded.dropped
        self.fallbacks += encoded.fallback
        if split == "train":
            self.lengths.append(len(encoded.tokens))
            self.trained_tokens += len(encoded.kinds) - encoded.kinds.count(0)


def prepare(data: Data, data_root: Path, model_folder: Path, out: Path, say: Callable[[str], None]) -> Report:
    """Make the prepared folder `out`, which must not exist and appears by rename; `say` gets lines of progress.

    DataError: the data cannot be used (file, line and byte where they can be said). ConfigError: the model folder's
    tokenizer or chat template cannot. RunsFolderError: `out` cannot be written.
    """
    if out.exists():
        raise DataError(f"{out}: exists already: delete it to prepare the data again")
    tokenizer = load_tokenizer(model_folder)
    controls = control_tokens(tokenizer)
    composer = Composer(load_chat(model_folder, controls), prompt_of(data), data.format == "messages")
    encoder = Encoder(tokenizer, composer, data.max_length, controls)
    selection = select(data, data_root)
    say(
        f"{data.path}: {selection.rows} rows, {selection.items_read} items; "
        f"{len(selection.train)} to train on, {len(selection.held)} held out"
    )
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        counts = _write(unfinished, encoder, selection, say)
        if not counts.lengths:
            raise DataError(_nothing_left(data, counts))
        report = replace(_report(selection, counts), tokenizer=tokenizer_digest(model_folder))
        _finish(unfinished, out, report)
    except OSError as error:
        raise RunsFolderError(f"{out}: cannot be written ({error.strerror}): free some space, then resume") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


def _write(folder: Path, encoder: Encoder, selection: Selection, say: Callable[[str], None]) -> _Counts:
    counts = _Counts(selection.dropped.copy())
    names: Counter[str] = Counter()
    done, total = 0, len(selection.train) + len(selection.held)
    sides = zip(SPLITS, (selection.train, selection.held), selection.histories, strict=True)
    for split, items, histories in sides:
        with ItemsWriter(folder / split) as writer:
            for item, encoded in encoder.encode(zip(items, histories, strict=True)):
                done += 1
                if done % _SAY_EVERY == 0:
                    say(f"tokenised {done} of {total} items")
                if encoded.flaw is not None:
                    counts.dropped[encoded.flaw] += 1
                    continue
                names[item.key] += 1
                copy = names[item.key]
                name = item.key if copy == 1 else f"{item.key}-{copy}"
                writer.add(name, encoded.tokens, encoded.kinds, item.user.identity)
                counts.add(split, encoded)
    return counts


def _report(selection: Selection, counts: _Counts) -> Report:
    train, held = counts.kept[SPLITS[0]], counts.kept[SPLITS[1]]
    return Report(
        rows=selection.rows,
        users=selection.users,
        items_read=selection.items_read,
        items=selection.items,
        train=train,
        validation=held,
        validation_ratio=round(held / (train + held), 6),
        dropped=dict(sorted(counts.dropped.items())),
        shortened=counts.shortened,
        turns_dropped=counts.turns_dropped,
        fallbacks=counts.fallbacks,
        trained_tokens=counts.trained_tokens,
        repeated_answers=selection.repeated_answers,
        seen_validation_answers=selection.seen_validation_answers,
        **asdict(length_facts(counts.lengths)),
    )


def _nothing_left(data: Data, counts: _Counts) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.dropped.most_common()) or "none dropped"
    return (
        f"{data.path}: nothing is left to train on ({reasons}): "
        f"check the file, data.format and data.max_length ({data.max_length})"
    )


def _finish(unfinished: Path, out: Path, report: Report) -> None:
    with (unfinished / REPORT).open("w", encoding="utf-8") as file:
        file.write(report.to_json())
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(out)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
