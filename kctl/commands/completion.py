"""kctl completion SHELL: the few lines by which a shell asks kctl what may follow."""

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Yours.")]) -> None:
    """Print what makes the shell complete verbs, options, fields, and the names of configs and runs.

    \b
    Examples:
      source <(kctl completion bash)     # a line for ~/.bashrc; of zsh, for ~/.zshrc
      kctl completion fish > ~/.config/fish/completions/kctl.fish
    """
    from pathlib import Path

    from kctl import console

    console.data((Path(__file__).parents[1] / "shell" / f"kctl.{shell}").read_text(encoding="utf-8"))
