"""The Typer app and the one error boundary: run(argv) -> exit code.

Every verb is a module of kctl.commands with a function of the same name (of list: list_runs), or a Typer app where it
has verbs of its own; this file only lists them, and imports the one that is asked for: most of what a short command
takes is imports. So a shell that asks what may follow (kctl.complete) is answered before even typer is loaded. Exit
codes: kctl.errors.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

from kctl import console
from kctl.errors import KctlError
from trainer.errors import ConfigError, DataError
from trainer.schema.redaction import redacted

if TYPE_CHECKING:
    import typer

VERBS = (
    "init",
    "validate",
    "plan",
    "render",
    "schema",
    "data",
    "push",
    "doctor",
    "submit",
    "status",
    "top",
    "list",
    "explain",
    "diff",
    "logs",
    "wait",
    "cancel",
    "pull",
    "merge",
    "generate",
    "export",
    "adapters",
    "report",
    "compare",
    "delete",
    "prune",
    "gitops",
    "completion",
)


def app(verbs: Sequence[str] = VERBS) -> "typer.Typer":
    """The command line with these verbs."""
    import typer

    def kctl(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")
        ] = False,
    ) -> None:
        """LoRA fine-tuning on Kubernetes: one config becomes a verified adapter."""

    made = typer.Typer(
        name="kctl",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        callback=kctl,
    )
    for verb in verbs:
        module = import_module(f"kctl.commands.{verb}")
        found = getattr(module, "list_runs" if verb == "list" else verb)  # list would hide the builtin
        if isinstance(found, typer.Typer):
            made.add_typer(found, name=verb)
        else:
            made.command(verb)(found)
    return made


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        import typer

        console.data(f"kctl {version('kctl')}")
        raise typer.Exit


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code. Nothing but exit codes and one-line errors leaves it.

    typer and tracebacks write to stderr by themselves: so all of it is guarded against credentials.
    """
    with contextlib.redirect_stderr(console.guarded(sys.stderr)):
        return _run(argv)


def _run(argv: list[str]) -> int:
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
    except DataError as error:
        return _failed(error, str(error), 1, debug)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _quiet()
    except Exception as error:  # noqa: BLE001 - the boundary
        hint = "" if debug else ", run again with --debug"
        return _failed(error, f"internal error {type(error).__name__}: {redacted(str(error))[:200]}{hint}", 1, debug)
    return 0


def main() -> None:
    """The console script."""
    if sys.argv[1:2] == ["__complete"]:
        from kctl.complete import main as complete

        sys.exit(complete(sys.argv[2:]))
    # Nearly all of a short command is imports and answers of an API server, which make no garbage: looking for it takes
    # 5 % of the time, 10 % where there are thousands of pods.
    gc.set_threshold(300_000, 50, 50)
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
