"""Seconds and memory of preparing a synthetic file of chameleons shape, and how they grow with the items; with --stats
those of kctl data stats, without and with a tokenizer.

python tests/bench_dataset.py --items 72471 --tokenizer FOLDER_WITH_TOKENIZER_JSON_AND_CONFIG
"""

import argparse
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trainer.dataset.measuring import Pool
from trainer.dataset.measuring import measure as stats_of
from trainer.dataset.prepare import prepare
from trainer.dataset.ruler import How
from trainer.schema.data import Data, Prompt

ITEMS_A_ROW = 72_471 / 7_797
"""Of the seed's film dialogue."""
_SYLLABLES = ("ka", "ro", "mi", "ten", "dal", "vor", "is", "the", "an", "ly", "wer", "ho", "pa", "shun", "tre", "co")


def write_chameleons(path: Path, items: int, seed: int = 0) -> None:
    """`items` made-up items: about 1.5 KB of pretty-printed JSON each, 6-9 turns of 50-80 characters."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 3))) for _ in range(6000)]
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n")
        for number, count in enumerate(_row_sizes(items, draw)):
            row = json.dumps(_row(draw, words, number, count), indent=2, ensure_ascii=False)
            file.write((",\n" if number else "") + row)
        file.write("\n]\n")


def _row_sizes(items: int, draw: random.Random) -> Iterator[int]:
    left = items
    while left > 0:
        count = min(left, max(1, round(draw.expovariate(1 / ITEMS_A_ROW))))
        yield count
        left -= count


def _row(draw: random.Random, words: list[str], number: int, count: int) -> dict[str, object]:
    user = number if draw.random() < 0.8 else draw.randrange(number + 1)  # some users have several rows
    name = f"PERSON {user}"
    data = [_item(draw, words, name) for _ in range(count)]
    return {
        "user_hash": hashlib.md5(name.encode()).hexdigest(),
        "user": {"profile": {"name": name, "gender": draw.choice("mf")}},
        "task": {"description": "made up", "task_behavior_collections": [{"type": "dialogue", "data": data}]},
    }


def _item(draw: random.Random, words: list[str], name: str) -> dict[str, object]:
    turns = draw.randint(6, 9)
    context = [
        {"source": "OTHER" if (turns - place) % 2 else name, "content": _line(draw, words)} for place in range(turns)
    ]
    return {"context": context, "continuation": _line(draw, words)}


def _line(draw: random.Random, words: list[str]) -> str:
    length, text = draw.randint(50, 80), ""
    while len(text) < length:
        text += (" " if text else "") + draw.choice(words)
    return text.capitalize() + draw.choice(".?!.")


def measure(items: int, tokenizer: Path) -> tuple[float, float, float]:
    """(seconds of prepare() with every item, seconds of all its threads on a core, peak resident MiB)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_chameleons(root / "train.json", items)
        data = Data(path="train.json", format="chameleons")
        start, busy = time.perf_counter(), time.process_time()
        report = prepare(data, root, tokenizer, root / "prepared", print)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    for line in report.lines():
        print(" ", line)
    return seconds, busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_stats(items: int, tokenizer: Path, processes: int) -> None:
    """Print items a second, seconds of a core (other work on the machine does not count), and memory: of this process,
    and of the largest of those it started."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_chameleons(path, items)
        megabytes = path.stat().st_size / 1e6
        for named in (None, tokenizer):
            how = How("chameleons", Prompt(), (1024,), named)
            start, busy = time.perf_counter(), _busy_seconds()
            found = stats_of(path, how, None, lambda done: None, Pool(processes))
            seconds, busy = time.perf_counter() - start, _busy_seconds() - busy
            own, started = (resource.getrusage(kind).ru_maxrss / 1024 for kind in _USAGES)
            print(
                f"{found.items} items, {megabytes:.0f} MB, {'with' if named else 'without'} a tokenizer, {processes} "
                f"processes: {seconds:.1f} s ({busy:.1f} s of a core), {items / seconds:,.0f} items/s, "
                f"{found.tokens} tokens; peak {own:.0f} MiB RSS, {started:.0f} of a process it started"
            )


_USAGES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _busy_seconds() -> float:
    usages = [resource.getrusage(kind) for kind in _USAGES]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=72_471)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json and its config")
    parser.add_argument("--alone", action="store_true", help="measure --items only, and print one line of JSON last")
    parser.add_argument("--stats", action="store_true", help="measure kctl data stats instead, by --processes")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.stats:
        measure_stats(options.items, options.tokenizer, options.processes)
        return
    if options.alone:
        print(json.dumps(measure(options.items, options.tokenizer)))
        return
    results = {}
    for items in (options.items // 10, options.items):
        command = [sys.executable, __file__, "--alone", "--items", str(items), "--tokenizer", str(options.tokenizer)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(output, end="")
        results[items] = json.loads(output.splitlines()[-1])
        seconds, busy, mebibytes = results[items]
        print(f"{items} items: {seconds:.1f} s ({busy:.1f} s on a core), peak {mebibytes:.0f} MiB RSS")
    small, large = results.values()
    ratio = large[0] / small[0], large[1] / small[1]
    print(f"10x the items: {ratio[0]:.1f}x the seconds ({ratio[1]:.1f}x on a core)")


if __name__ == "__main__":
    main()
