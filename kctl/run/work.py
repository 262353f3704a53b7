"""Watching one of the trainer's programs, and bringing home what it wrote."""

import contextlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import typer

from kctl import console
from kctl.backends.protocol import RunFiles
from kctl.errors import KctlError, RunFailed
from trainer.schema.redaction import line_by_line

_ERROR = "error: "
"""How a program of the trainer begins its last words; what torchrun says after them is of no use here."""


def watched(lines: Iterable[str], again: str, local: bool) -> None:
    """Every line on stderr until the end. RunFailed with the program's own last words where it fails.

    Ctrl-C: exit code 130, naming the command that takes it up again; a pod goes on meanwhile.
    """
    last, clean = "", line_by_line()
    try:
        for line in lines:
            if line.startswith(_ERROR):
                last = last or line.removeprefix(_ERROR)
            elif not last:
                console.say(clean(line))
    except RunFailed as error:
        raise RunFailed(last or str(error)) from None
    except KeyboardInterrupt:
        what = "stopped; what is done is kept" if local else "its pod goes on"
        console.say(f"{what}: {again} takes it up again")
        raise typer.Exit(130) from None


def bring(files: RunFiles, source: str, target: Path) -> None:
    """The run's file `source` as `target`, complete or not at all; `target` is replaced."""
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as out:
            for chunk in files.read(source):
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(target)
    except OSError as error:
        raise KctlError(f"{target}: {error.strerror or error}; mend it and run it again") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
