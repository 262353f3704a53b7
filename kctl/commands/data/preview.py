"""kctl data preview: items as the model sees them."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kctl.commands.data.arguments import (
    ConfigOption,
    FileArgument,
    FormatOption,
    TokenizerOption,
    data_of,
    model_folder,
)
from kctl.run.options import SetOption

if TYPE_CHECKING:
    from trainer.dataset.preview import Preview

_ANSWER, _FRAME, _END = "\x1b[1;32m", "\x1b[32m", "\x1b[0m"


def preview(
    file: FileArgument,
    tokenizer: TokenizerOption = None,
    first: Annotated[int, typer.Option("--item", metavar="N", min=1, help="The first item to show.")] = 1,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many.")] = 1,
    config: ConfigOption = None,
    sets: SetOption = None,
    data_format: FormatOption = None,
) -> None:
    """Show items as training renders and shortens them; what is trained is green, the answer itself bold.

    Where stdout is no terminal, {+...+} stands around what is trained.

    \b
    Examples:
      kctl data preview train.json --tokenizer Qwen3-8B --item 12
      kctl data preview train.json --tokenizer Qwen3-8B --config lora_di3 --count 5
    """
    from kctl import console
    from kctl.errors import NotFound, UsageError
    from trainer.dataset.preview import previews

    if tokenizer is None:
        raise UsageError("add --tokenizer FOLDER: prompts are rendered by a model's chat template")
    folder = model_folder(tokenizer)
    data = data_of(file, data_format, config, sets or [])
    shown = 0
    for one in previews(data, file.parent, folder, first, count):
        shown += 1
        console.data(_page(one, console.draws(sys.stdout)))
    if not shown:
        raise NotFound(f"--item {first}: {file} has fewer items")


def _page(one: "Preview", drawn: bool) -> str:
    place = one.place.say("").removesuffix(": ")
    if one.flaw is not None:
        return f"# item {one.number}, {place}: not trained: {one.flaw}\n"
    cut = f", {one.dropped} oldest turns or history lines left out" if one.dropped else ""
    text = _coloured(one) if drawn else _marked(one)
    return f"# item {one.number}, {place}: {one.tokens} tokens, {one.trained} trained{cut}\n{text}\n"


def _coloured(one: "Preview") -> str:
    parts, at = [], 0
    for span in one.spans:
        parts += [_safe(one.text[at : span.start]), _FRAME, _safe(one.text[span.start : span.own]), _END]
        parts += [_ANSWER, _safe(one.text[span.own : span.own_end]), _END]
        parts += [_FRAME, _safe(one.text[span.own_end : span.end]), _END]
        at = span.end
    return "".join((*parts, _safe(one.text[at:])))


def _marked(one: "Preview") -> str:
    parts, at = [], 0
    for span in one.spans:
        parts += [_safe(one.text[at : span.start]), "{+", _safe(one.text[span.start : span.end]), "+}"]
        at = span.end
    return "".join((*parts, _safe(one.text[at:])))


def _safe(text: str) -> str:
    from kctl import console

    return "\n".join(console.printable(line) for line in text.split("\n"))
