"""Arguments that the verbs of kctl data share, and what they come to."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kctl import console
from kctl.errors import NotFound, UsageError

if TYPE_CHECKING:
    from trainer.schema.data import Data


class Format(StrEnum):
    """Of a file, as train.data.format has it."""

    chameleons = "chameleons"
    messages = "messages"
    prompt_completion = "prompt_completion"


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A file of training data.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="The new file; it must not exist.")]
FormatOption = Annotated[Format | None, typer.Option("--format", help="Format of FILE; by default what it looks like.")]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="CONFIG", help="Take format, prompt and max_length from its train.data."),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="FOLDER", help="A model folder: its tokenizer.json and chat template."),
]


def existing(file: Path) -> Path:
    """NotFound where there is no such file."""
    if not file.exists() or file.is_dir():
        raise NotFound(f"{file}: {'is a folder: name a file in it' if file.is_dir() else 'no such file'}")
    return file


def absent(out: Path) -> Path:
    """UsageError where there is something already, a link that leads nowhere too."""
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists; move it away, or name another")
    return out


def model_folder(folder: Path) -> Path:
    """UsageError where its tokenizer cannot be read on this machine."""
    if importlib.util.find_spec("tokenizers") is None:
        raise UsageError("--tokenizer needs a package that is not here: pip install tokenizers")
    if not folder.is_dir():
        raise NotFound(f"--tokenizer {folder}: no such folder")
    return folder


def data_of(file: Path, data_format: Format | None, config: str | None, sets: list[str]) -> "Data":
    """train.data of the config, or its defaults, for `file`. DataError where the file's format cannot be told."""
    from trainer.dataset.formats import format_of
    from trainer.schema.data import Data

    existing(file)
    if config is None:
        if sets:
            raise UsageError("--set overrides a field of a config: add --config CONFIG")
        return Data(path=file.name, format=data_format.value if data_format else format_of(file))
    from kctl.config.run_config import load

    data = load(config, sets).config.train.data
    found = format_of(file) if data_format is None else data_format.value
    if found != data.format:
        looks = f"{file} looks like {found}" if data_format is None else f"--format {found}"
        raise UsageError(f"{looks}, and {config} has train.data.format {data.format}: leave --config out")
    return data.model_copy(update={"path": file.name})


@contextlib.contextmanager
def reading(file: Path, alone: bool = True) -> Iterator[Callable[[int], None]]:
    """What is told how many bytes of `file` are done: a bar on a terminal that it has `alone`, nothing elsewhere."""
    if not alone:
        yield lambda done: None
        return
    size = file.stat().st_size
    with console.progress(file.name) as tell:
        yield lambda done: tell(done, size)
