"""From a file to its Stats, by all cores where it can be cut, in memory that depends on its largest row.

What grows with the file: 24 bytes an item, in which duplicates are found, and about 200 bytes a user.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

from trainer.dataset.blocks import blocks, decoded
from trainer.dataset.formats import entries, parse
from trainer.dataset.items import Example, User
from trainer.dataset.ruler import How, Ruler, ruler
from trainer.dataset.source import Place, Progress, unreadable
from trainer.dataset.stats import VERSION, Characters, Duplicates, Histogram, Leaks, Shortening, Stats
from trainer.dataset.tally import Held, Tally, held_of
from trainer.dataset.tokenizer import tokenizer_digest
from trainer.errors import DataError


@dataclass(frozen=True)
class Pool:
    """Who reads: `processes` of them, pieces of about `piece` bytes each."""

    processes: int = min(os.cpu_count() or 1, 8)
    """More would wait for the one that adds up."""
    piece: int = 4 << 20


def measure(path: Path, how: How, validation: Path | None, progress: Progress, pool: Pool | None = None) -> Stats:
    """The file's statistics; leaks against the file of `validation`. `progress` is told how many bytes are done.

    DataError: a file is wrong (the first place), or holds no items. ConfigError: the model folder is of no use.
    """
    held = None
    if validation is not None:
        held = held_of((entry.user, entry.examples) for entry in entries(how.format, validation))
    measured = ruler(how)
    tally = _by_pieces(path, how, held, progress, pool or Pool())
    if tally is None:
        tally = Tally(how, held)
        tally.add_rows(_rows(path, how, progress), measured)
    if not tally.items:
        raise DataError(f"{path}: holds no items ({tally.rows} rows): is its format {how.format}?")
    return _stats(path, how, tally, held)


def _rows(path: Path, how: How, progress: Progress) -> Iterator[tuple[User, list[Example]]]:
    for entry in entries(how.format, path):
        progress(entry.place.byte)
        yield entry.user, entry.examples


def _by_pieces(path: Path, how: How, held: Held | None, progress: Progress, pool: Pool) -> Tally | None:
    """The tally of the whole file; None where it has to be read from its start by one: small, uncut, or wrong."""
    try:
        if pool.processes == 1 or path.stat().st_size < 2 * pool.piece:
            return None
        pieces = blocks(path, how.format != "chameleons", pool.piece)
        return None if pieces is None else _pooled(path, how, held, pieces, progress, pool)
    except OSError as error:
        raise DataError(unreadable(path, error)) from None


def _pooled(
    path: Path, how: How, held: Held | None, pieces: Iterator[bytes], progress: Progress, pool: Pool
) -> Tally | None:
    total, done = Tally(how, held), 0
    waiting: deque[tuple[int, Future[Tally | None]]] = deque()
    # A forked child of a program with threads may wait for ever for a lock of theirs, and elsewhere than on Linux for
    # one of the system's; a spawned one starts half a second later.
    forks = sys.platform == "linux" and threading.active_count() == 1
    context = get_context("fork" if forks else "spawn")
    readers = ProcessPoolExecutor(pool.processes, context, _start, (how, held, os.getpid()))
    try:
        for piece in chain(pieces, [None]):
            if piece is not None:
                waiting.append((len(piece), readers.submit(_counted, piece)))
            while waiting and (piece is None or len(waiting) > 2 * pool.processes):
                size, future = waiting.popleft()
                tally = future.result()
                if tally is None:
                    return None
                total.merge(tally)
                done += size
                progress(done)
    except BrokenProcessPool:
        raise DataError(f"{path}: a process that read it was killed: was there too little memory?") from None
    finally:
        readers.shutdown(cancel_futures=True)
    return total


_work: tuple[How, Held | None, Ruler]
"""Of a process of the pool."""


def _start(how: How, held: Held | None, parent: int) -> None:
    global _work
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the threads
    # What is read makes next to no cycles, and a million small objects: looking for them takes a third of the time.
    gc.set_threshold(100_000, 50, 50)
    _work = how, held, ruler(how)


def _end_with(parent: int) -> None:
    """A parent that was killed leaves a process that waits for its next piece for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _counted(piece: bytes) -> Tally | None:
    """The piece's tally; None where it is not whole rows of the format: who reads from the start says what is wrong."""
    how, held, measured = _work
    place, tally = Place(Path(), 0, 0, 0), Tally(how, held)
    try:
        rows = decoded(piece, how.format != "chameleons")
        tally.add_rows((parse(how.format, place, row) for row in rows), measured)
    except (ValueError, RecursionError, DataError):
        return None
    return tally


def _stats(path: Path, how: How, tally: Tally, held: Held | None) -> Stats:
    usable = sum(tally.lengths.values())
    p50, p90, p99 = (_percentile(tally.lengths, usable, percent) for percent in (50, 90, 99))
    alone = sum(tally.alone.values())
    rows_per_user = Counter(rows for rows, _ in tally.users.values()) + Counter({1: alone})
    with path.open("rb") as file:
        mark = file.read(3) == b"\xef\xbb\xbf"
    return Stats(
        version=VERSION,
        path=str(path),
        bytes=path.stat().st_size,
        format=how.format,
        blocks=list(how.prompt.blocks) if how.prompt else [],
        exact=how.tokenizer is not None,
        tokenizer=tokenizer_digest(how.tokenizer) if how.tokenizer else "",
        rows=tally.rows,
        users=len(tally.users) + alone,
        items=tally.items,
        unusable=dict(sorted(tally.unusable.items())),
        items_per_row=_histogram(tally.per_row),
        items_per_user=_histogram(Counter(items for _, items in tally.users.values()) + tally.alone),
        rows_per_user=_histogram(rows_per_user),
        lengths=_histogram(tally.lengths),
        length_p50=p50,
        length_p90=p90,
        length_p99=p99,
        length_max=tally.longest,
        tokens=tally.tokens,
        trained_tokens=tally.trained,
        shortening=[
            Shortening(most, cut["shortened"], cut["dropped"], cut["tokens"], cut["trained_tokens"])
            for most, cut in tally.cuts.items()
        ],
        duplicates=Duplicates(tally.repeated("items"), tally.repeated("texts"), tally.repeated("answers")),
        leaks=_leaks(tally, held),
        division=None,
        characters=Characters(
            non_ascii=tally.characters["non_ascii"],
            replacement=tally.characters["replacement"],
            mojibake=tally.characters["mojibake"],
            control=tally.characters["control"],
            byte_order_mark=mark,
        ),
    )


def _leaks(tally: Tally, held: Held | None) -> Leaks | None:
    sought = tally.sought
    if held is None or sought is None:
        return None
    return Leaks(
        held_out=len(held.items),
        copies=sum(key in sought.items for key in held.items),
        texts=sum(key in sought.texts for key in held.texts),
        answers=sum(key in sought.answers for key in held.answers),
        shown=sum(key in sought.shown for key in held.answers),
        users=len(sought.users),
    )


def _histogram(counts: Counter[int]) -> Histogram:
    return sorted(counts.items())


def _percentile(lengths: Counter[int], items: int, percent: int) -> int:
    """Nearest rank; 0 where there are no items."""
    rank, seen = -(-items * percent // 100), 0
    for length, count in sorted(lengths.items()):
        seen += count
        if seen >= rank:
            return length
    return 0
