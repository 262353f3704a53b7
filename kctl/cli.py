"""The Typer app and the one error boundary: run(argv) -> exit code.

Every verb is a module of kctl.commands with a function of the same name (of list: list_runs); this file only lists
them, and imports the one that is asked for: most of what a short command takes is imports. Exit codes: kctl.errors.
"""

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from kctl import console
from kctl.errors import KctlError
from trainer.errors import ConfigError

VERBS = (
    "validate",
    "plan",
    "render",
    "schema",
    "submit",
    "status",
    "list",
    "logs",
    "wait",
    "cancel",
    "pull",
    "merge",
    "generate",
    "export",
    "delete",
    "prune",
)


def app(verbs: Sequence[str] = VERBS) -> typer.Typer:
    """The command line with these verbs."""
    made = typer.Typer(
        name="kctl", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, callback=kctl
    )
    for verb in verbs:
        module = import_module(f"kctl.commands.{verb}")
        made.command(verb)(getattr(module, "list_runs" if verb == "list" else verb))  # list would hide the builtin
    return made


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.data(f"kctl {version('kctl')}")
        raise typer.Exit


def kctl(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
) -> None:
    """LoRA fine-tuning on Kubernetes: one config becomes a verified adapter."""


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code. Nothing but exit codes and one-line errors leaves it."""
    debug = "--debug" in argv
    try:
        words = [word for word in argv if word != "--debug"]
        app(words[:1] if words and words[0] in VERBS else VERBS)(words, prog_name="kctl")
        sys.stdout.flush()
    except SystemExit as stop:
        return _flushed(stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1)
    except KctlError as error:
        return _failed(error, str(error), error.exit_code, debug)
    except ConfigError as error:
        return _failed(error, str(error), 2, debug)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _quiet()
    except Exception as error:  # noqa: BLE001 - the boundary
        hint = "" if debug else ", run again with --debug"
        return _failed(error, f"internal error {type(error).__name__}: {str(error)[:200]}{hint}", 1, debug)
    return 0


def main() -> None:
    """The console script."""
    # Nearly all of a short command is imports, which make no garbage: looking for it takes 5 % of the time.
    gc.set_threshold(100_000, 50, 50)
    code = run(sys.argv[1:])
    gc.freeze()  # the interpreter would look for it once more when it ends: another 60 ms
    sys.exit(code)


def _failed(error: BaseException, text: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    console.error(text)
    return code


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _quiet()
    return code


def _quiet() -> int:
    # Who reads us has gone. Python would say so once more when it flushes stdout at exit: give it somewhere to write.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
