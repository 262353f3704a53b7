"""kctl data stats: a file in numbers, for people and for kctl plan."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kctl.commands.data.arguments import (
    ConfigOption,
    FileArgument,
    FormatOption,
    TokenizerOption,
    data_of,
    existing,
    model_folder,
    reading,
)
from kctl.run.options import Output, SetOption

if TYPE_CHECKING:
    from trainer.dataset.stats import Stats

_LENGTHS = (512, 1024, 2048, 4096)
_BAR = 40


def stats(
    file: FileArgument,
    tokenizer: TokenizerOption = None,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", metavar="FILE", help="Look for leaks from this file, of equal format."),
    ] = None,
    max_lengths: Annotated[
        list[int] | None,
        typer.Option("--max-length", metavar="N", min=32, help="Shorten to N tokens; may be repeated."),
    ] = None,
    split: Annotated[
        bool, typer.Option("--split", help="Divide as the config says, in memory as its run does; say what leaks.")
    ] = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    data_format: FormatOption = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="Format of what is printed; json is the file that kctl plan reads.")
    ] = Output.TABLE,
) -> None:
    """Count rows, users, items and tokens; what max_length would shorten; duplicates, leaks and odd characters.

    Without --tokenizer tokens are estimated from bytes, and the output says so.

    \b
    Examples:
      kctl data stats train.json --config lora_di3 --split
      kctl data stats train.json --validation test.json
      kctl data stats train.json --tokenizer Qwen3-8B -o json > stats.json
    """
    from dataclasses import replace

    from kctl import console
    from kctl.errors import UsageError
    from trainer.dataset.division import divide
    from trainer.dataset.measuring import measure
    from trainer.dataset.ruler import How
    from trainer.dataset.selecting import prompt_of

    if split and config is None:
        raise UsageError("--split divides as a config says: add --config CONFIG")
    data = data_of(file, data_format, config, sets or [])
    lengths = tuple(dict.fromkeys(max_lengths or ([data.max_length] if config else _LENGTHS)))
    folder = None if tokenizer is None else model_folder(tokenizer)
    if validation is not None:
        existing(validation)
    prompt = prompt_of(data)
    if prompt is not None and "history" in prompt.blocks:
        console.warn("lengths are without the history block, which depends on what is held out")
    with reading(file) as progress:
        found = measure(file, How(data.format, prompt, lengths, folder), validation, progress)
    if split:
        found = replace(found, division=divide(data, file.parent))
    if output is Output.TABLE:
        _print(found)
    else:
        console.data(str(file) if output is Output.NAME else _structured(found, output))


def _structured(found: "Stats", output: Output) -> str:
    from kctl.run.page import structured

    text = found.to_json()
    return text if output is Output.JSON else structured(json.loads(text), output)


def _print(found: "Stats") -> None:
    from kctl import console
    from kctl.run.page import size_of

    rate = f"{found.items / found.rows:.1f} a row, {found.items / found.users:.1f} a user"
    how = "counted" if found.exact else "estimated from bytes; --tokenizer FOLDER counts them"
    lines = [
        f"{console.printable(found.path)}: {size_of(found.bytes)} of format {found.format}",
        f"rows {found.rows}, users {found.users}, items {found.items} ({rate}), usable {found.usable}",
        *(f"  {count} {reason}" for reason, count in sorted(found.unusable.items(), key=lambda one: -one[1])),
        f"tokens an item: median {found.length_p50}, p90 {found.length_p90}, p99 {found.length_p99}, "
        f"longest {found.length_max} ({how})",
        *_bars(found),
        f"tokens {found.tokens}, of them trained {found.trained_tokens}",
    ]
    console.data("\n".join(lines))
    if found.shortening:
        rows = [[str(o.max_length), str(o.shortened), str(o.dropped), str(o.tokens)] for o in found.shortening]
        console.table(["MAX_LENGTH", "SHORTENED", "DROPPED", "TOKENS LEFT"], rows)
    console.data("\n".join(_findings(found)))


def _bars(found: "Stats") -> list[str]:
    buckets: dict[int, int] = {}
    for length, count in found.lengths:
        bucket = max(64, 1 << (length - 1).bit_length())
        buckets[bucket] = buckets.get(bucket, 0) + count
    most = max(buckets.values(), default=1)
    return [f"  <={bucket:<8} {count:>9} {'#' * -(-count * _BAR // most)}" for bucket, count in buckets.items()]


def _findings(found: "Stats") -> list[str]:
    copies, characters = found.duplicates, found.characters
    lines = [
        f"repeated: {copies.items} items whole, {copies.texts} whoever the user, {copies.answers} answers",
        f"characters: {characters.non_ascii} items are not plain ASCII, {characters.replacement} have U+FFFD, "
        f"{characters.mojibake} look decoded wrongly, {characters.control} have control characters",
    ]
    if characters.byte_order_mark:
        lines.append("the file begins with a byte order mark")
    return lines + _leaks(found)


def _leaks(found: "Stats") -> list[str]:
    lines, leaks, split = [], found.leaks, found.division
    if leaks is not None:
        lines.append(
            f"of {leaks.held_out} held-out items: {leaks.copies} are training items, {leaks.texts} whoever the user; "
            f"answers of {leaks.answers} are training answers, of {leaks.shown} stand in training contexts; "
            f"{leaks.users} users are trained, too"
        )
    if split is not None:
        lines += [
            f"this config trains {split.train} items and holds out {split.held_out}, less {split.copies} copies; "
            f"{split.repeated_answers} training answers repeat an earlier one",
            f"of what it holds out: answers of {split.answers} are training answers, of {split.shown} stand in "
            f"training contexts or histories; {split.users} users are trained, too",
        ]
    return lines
