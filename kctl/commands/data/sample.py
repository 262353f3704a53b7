"""kctl data sample: a part of a file, drawn as train.data.sample draws it."""

from enum import StrEnum
from typing import Annotated

import typer

from kctl.commands.data.arguments import FileArgument, FormatOption, OutArgument, absent, data_of, reading


class Per(StrEnum):
    row = "row"
    user = "user"
    file = "file"


class Unit(StrEnum):
    item = "item"
    row = "row"


def sample(
    file: FileArgument,
    out: OutArgument,
    most: Annotated[int, typer.Option("--max", metavar="N", help="At most N items (or rows) of each group.")],
    per: Annotated[
        Per, typer.Option("--per", help="The group: a JSON row, all rows of a user, or the file.")
    ] = Per.user,
    unit: Annotated[Unit, typer.Option("--unit", help="What is counted.")] = Unit.item,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds draw the same.")] = 42,
    data_format: FormatOption = None,
) -> None:
    """Write the items that train.data.sample would choose; says rows, users and items before and after.

    --per row draws exactly what is in files like train_di3.json, --per user --unit row caps rows as train_3.json did.
    --per user and --per file draw the same whatever the order of the file. Nothing else of a row is changed.

    \b
    Examples:
      kctl data sample train.json train_di3.json --max 3 --per row
      kctl data sample chats.jsonl few.jsonl --max 1000 --per file
    """
    from kctl import console
    from trainer.dataset.subset import Draw, write_sample
    from trainer.schema.data import Sample
    from trainer.schema.loading import validated

    group = "user" if per is Per.file else per.value
    drawn = validated(Sample, {"unit": unit.value, "max": most, "per": group, "seed": seed}, "kctl data sample")
    data = data_of(file, data_format, None, [])
    absent(out)
    with reading(file) as progress:
        before, after = write_sample(file, out, data.format, Draw(drawn, per is Per.file), progress)
    rows, users, items = ((getattr(before, name), getattr(after, name)) for name in ("rows", "users", "items"))
    console.say(f"rows {rows[0]} -> {rows[1]}, users {users[0]} -> {users[1]}, items {items[0]} -> {items[1]}")
    if per is Per.user and before.alone == before.rows:
        console.warn("nothing names a user, so every row stands alone and all of it was taken; see --per file")
    console.data(str(out))
