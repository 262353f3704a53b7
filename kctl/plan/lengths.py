"""How many items a run trains and how long they are: from a data file, a file of counts, an earlier run, or a guess."""

import json
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kctl.errors import NotFound, UsageError
from trainer.dataset.report import Report
from trainer.dataset.stats import Stats
from trainer.errors import DataError
from trainer.schema.config import TrainConfig
from trainer.schema.data import Data

MOST = 20_000
"""Lengths that a plan looks at; of more items these stand for all."""
SPREAD = 0.6
"""Of the logarithm of lengths, where only their mean is known: dialogue's, and trainer.bench's."""
LABELS = 1 / 6
"""Share of tokens that count in the loss, where nothing says it; trainer.bench's."""
LARGEST = 64 << 20
"""Bytes of a file of counts."""
GUESS = 400
"""Tokens of an item, where nothing is known at all."""


@dataclass(frozen=True)
class Lengths:
    """What a plan knows of the data."""

    items: int | None
    """Trained ones; None: not known."""
    held_out: int
    tokens: tuple[int, ...]
    """Lengths of some or all items, in no order."""
    labels: float
    """Share of tokens that count in the loss."""
    source: str
    sure: str
    """exact, estimated, or guessed."""

    @property
    def mean(self) -> float:
        """Tokens of an item."""
        return sum(self.tokens) / len(self.tokens)


def guessed(train: TrainConfig) -> Lengths:
    """Where nothing is known: items unknown, their lengths made up."""
    mean = min(GUESS, train.data.max_length // 2)
    return Lengths(None, 0, _spread(mean, train.data.max_length), LABELS, "made up", "guessed")


def told(train: TrainConfig, items: int, mean: float) -> Lengths:
    """`items` before any is held out, of `mean` tokens."""
    if mean > train.data.max_length:
        raise UsageError(f"--mean-tokens {mean:g}: train.data.max_length is {train.data.max_length}: no item is longer")
    held = _held(items, train)
    spread = _spread(mean, train.data.max_length)
    return Lengths(items - held, held, spread, LABELS, f"--items {items} --mean-tokens {mean:g}", "estimated")


def _held(items: int, train: TrainConfig) -> int:
    """How many of `items` are held out; never all."""
    validation = train.data.validation
    return 0 if validation.path else min(items - 1, round(items * validation.ratio))


def _spread(mean: float, longest: int) -> tuple[int, ...]:
    """Lengths of this mean, spread as dialogue's, always the same."""
    draw = random.Random(0)
    return _to_mean([draw.lognormvariate(0, SPREAD) for _ in range(2048)], mean, longest)


def _to_mean(lengths: Sequence[float], mean: float, longest: int) -> tuple[int, ...]:
    """The lengths times what gives them this mean; what `longest` cuts off is given to the others."""
    factor, shown = mean * len(lengths) / sum(lengths), [1]
    for _ in range(30):
        shown = [min(longest, max(1, round(length * factor))) for length in lengths]
        factor *= mean * len(shown) / sum(shown)
    return tuple(shown)


def of_report(report: Report, source: str) -> Lengths:
    """Of what a preparation reported: the run's own counts. ValueError where they are none."""
    buckets = sorted((int(name.removeprefix("<=")), count) for name, count in report.lengths.items())
    lengths: list[float] = []
    for bucket, count in buckets:
        least = bucket / 2 if lengths else 8  # the first one has all that are shorter
        lengths += [least + (bucket - least) * (place + 0.5) / count for place in range(_share(count, report.train))]
    shown = _to_mean(lengths, report.tokens / report.train, report.length_max)
    share = report.trained_tokens / report.tokens
    return _checked(Lengths(report.train, report.validation, shown, share, source, "exact"))


def _share(count: int, items: int) -> int:
    """How many of a plan's lengths stand for `count` of `items`."""
    return count if items <= MOST else max(1, round(count * MOST / items))


def _checked(lengths: Lengths) -> Lengths:
    possible = lengths.tokens and min(lengths.tokens) >= 1 and 0 < lengths.labels <= 1 and lengths.held_out >= 0
    if not possible or not lengths.items or lengths.items < 1:
        raise ValueError("its counts cannot be of any data")
    return lengths


def of_file(path: Path, train: TrainConfig) -> Lengths:
    """Of a run's data-report.json, or of what `kctl data stats -o json` wrote; NotFound where there is no such file,
    UsageError for anything else."""
    want = "a run's data-report.json, or what kctl data stats -o json wrote"
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path}: too large for {want}; of a data file: --data {path}")
        text = path.read_text(encoding="utf-8")
        if isinstance(json.loads(text)["lengths"], dict):
            return of_report(Report.from_json(text), f"{path}, a run's report")
        return _checked(_of_stats(Stats.from_json(text, str(path)), train))
    except DataError as error:
        raise UsageError(f"{error}; --stats takes {want}") from None
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}: --stats takes {want}") from None
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: not {want} ({type(error).__name__}: {str(error)[:80]})") from None


def _of_stats(found: Stats, train: TrainConfig) -> Lengths:
    """Counts of the whole file, of which the run's sampler and split leave a part: the one that --split counted, else
    an estimate."""
    used = usable = sum(count for _, count in found.lengths)
    sample, longest = train.data.sample, train.data.max_length
    if sample is not None and sample.unit == "item":
        groups = found.items_per_row if sample.per == "row" else found.items_per_user
        items = sum(size * count for size, count in groups)
        used = round(usable * sum(min(size, sample.max) * count for size, count in groups) / items)
    held = _held(used, train)
    items, source, sure = used - held, f"{found.path}, by kctl data stats", "estimated"
    if found.division is not None:
        items, held = found.division.train, found.division.held_out
        source += ", divided as its --split was told"
    elif found.exact:
        sure = "counted, then estimated what sample and validation leave"
    lengths = [min(length, longest) for length, count in found.lengths for _ in range(_share(count, usable))]
    return Lengths(items, held, tuple(lengths), found.trained_tokens / found.tokens, source, sure)


def of_data(path: Path, data: Data, model: Path | None, say: Callable[[str], None]) -> Lengths:
    """Of the file itself, read, sampled and divided as the run would; with a `model` folder that has a tokenizer
    tokenised, too. NotFound where there is no such file, TrainerError where the run would end with it.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such file: --data takes a file of training data")
    root, here = _placed(path, data)
    if model is not None and (model / "tokenizer.json").is_file() and find_spec("tokenizers"):
        return _prepared(path, root, here, model, say)
    return _measured(path, root, here)


def _measured(path: Path, root: Path, data: Data) -> Lengths:
    """By bytes, as kctl data stats estimates without a tokenizer; with the history that each item has."""
    from trainer.dataset.items import Example
    from trainer.dataset.ruler import BYTES_PER_TOKEN, How, ruler
    from trainer.dataset.selecting import prompt_of, select

    selection, most, prompt = select(data, root), data.max_length, prompt_of(data)
    measure = ruler(How(data.format, prompt, (most,)))
    examples = [(item.user, Example(item.turns, item.answer, item.query, item.time)) for item in selection.train]
    lengths, trained = [], 0
    for one, history in zip(measure(examples), selection.histories[0], strict=True):
        kept = one.cut[most] if one.cut else (one.tokens, one.trained)
        if kept is not None:  # else it is dropped, however many turns are left out
            lines = sum(len(line.encode(errors="replace")) for line in history)
            lengths.append(min(most, kept[0] + math.ceil(lines / BYTES_PER_TOKEN)))
            trained += kept[1]
    if not lengths:
        raise DataError(f"{path}: nothing is left to train on ({dict(selection.dropped)}): check train.data")
    more = "--model FOLDER with its tokenizer.json, and pip install tokenizers, would count"
    source = f"{path}, taking {BYTES_PER_TOKEN} bytes for a token: {more}"
    share = min(1.0, trained / sum(lengths))
    return Lengths(len(lengths), len(selection.held), _some(lengths), share, source, "estimated")


def _prepared(path: Path, root: Path, data: Data, model: Path, say: Callable[[str], None]) -> Lengths:
    from trainer.dataset.prepare import prepare
    from trainer.dataset.prepared import load_prepared

    with tempfile.TemporaryDirectory() as folder:
        report = prepare(data, root, model, Path(folder) / "prepared", say)
        items = load_prepared(Path(folder) / "prepared").train
        lengths = _some([items.length(item) for item in range(len(items))])
    share = report.trained_tokens / report.tokens
    return Lengths(report.train, report.validation, lengths, share, f"{path}, tokenised by {model}", "exact")


def _some(lengths: list[int]) -> tuple[int, ...]:
    return tuple(lengths if len(lengths) <= MOST else random.Random(0).sample(lengths, MOST))


def _placed(path: Path, data: Data) -> tuple[Path, Data]:
    """The root below which `path` is the run's data file, and the data section that says so."""
    path = path.absolute()
    parts, told_parts = path.parts, Path(data.path).parts
    if parts[-len(told_parts) :] == told_parts:
        return Path(*parts[: -len(told_parts)]), data
    validation = data.validation
    if validation.path is not None:
        validation = validation.model_copy(update={"path": Path(validation.path).name})
    return path.parent, data.model_copy(update={"path": path.name, "validation": validation})
