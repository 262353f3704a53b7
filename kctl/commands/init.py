"""kctl init: a first config, from answers or from --set; nothing that exists is overwritten."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kctl.run.options import SetOption

if TYPE_CHECKING:
    from kctl.config.draft import Draft


def init(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="What to call it; its runs begin so.")] = None,
    sets: SetOption = None,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Goes to DIR/NAME.yaml.")] = Path("configs"),
) -> None:
    """Write a first run config: asks for what --set does not say; without a terminal --set must say it.

    The cluster profile called default is copied beside it, where there is none yet.

    \b
    Examples:
      kctl init
      kctl init my_run --set train.model.path=Qwen3-8B --set train.data.path=train.jsonl
    """
    import sys

    from kctl import console
    from kctl.config.draft import answered, profile_beside, write

    draft: Draft = answered(name, sets or [], to, sys.stdin.isatty())
    path = write(draft, to)
    profile = profile_beside(draft, to)
    console.data(str(path))
    if profile is not None:
        console.data(str(profile))
        console.say(f"say what your cluster looks like in {profile}: image, context, namespace, claims, GPUs")
    shown = path.stem if to == Path("configs") else path
    console.say(f"every field with its meaning: kctl schema; next: kctl validate {shown}")
