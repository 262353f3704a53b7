"""kctl data convert: a file in another format."""

from enum import StrEnum
from typing import Annotated

import typer

from kctl.commands.data.arguments import FileArgument, Format, FormatOption, OutArgument, absent, data_of, reading


class Part(StrEnum):
    """As trainer.dataset.convert has them."""

    profile = "profile"
    query = "query"
    time = "time"
    rows = "rows"
    items = "items"


def convert(
    file: FileArgument,
    out: OutArgument,
    to: Annotated[Format, typer.Option("--to", help="Format of OUT.")],
    without: Annotated[
        list[Part] | None,
        typer.Option("--without", help="Leave this out where the new format has no place for it; may be repeated."),
    ] = None,
    data_format: FormatOption = None,
) -> None:
    """Write FILE in another format, if each item is trained the same; else name the first that is not.

    --without items leaves such items out, rows parts rows of several items; profile, query and time leave out that part
    of the items. What training does not read (descriptions, speakers' names) is not carried over.

    \b
    Examples:
      kctl data convert pairs.jsonl chats.jsonl --to messages
      kctl data convert train.json pairs.jsonl --to prompt_completion --without profile --without rows
    """
    from kctl import console
    from kctl.errors import UsageError
    from trainer.dataset.convert import convert as converted

    data = data_of(file, data_format, None, [])
    if data.format == to.value:
        raise UsageError(f"{file}: is of format {to} already")
    absent(out)
    with reading(file) as progress:
        done = converted(file, data.format, out, to.value, [part.value for part in without or []], progress)
    for part, count in sorted(done.left_out.items()):
        console.say({"rows": f"parted {count} rows"}.get(part, f"left out: {part} of {count} items"))
    console.say(f"{done.items} items of format {to}")
    console.data(str(out))
