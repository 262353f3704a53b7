"""kctl generate RUN: its answers to a test file, here."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from kctl import console
from kctl.backends.protocol import Work
from kctl.errors import UsageError
from kctl.run.find import located
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument
from kctl.run.work import bring, watched
from trainer.schema.contract import RunFolder

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,100}\.json")


def generate(
    run: RunArgument,
    test: Annotated[str, typer.Option("--test", metavar="FILE", help="The test file, below the data volume.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The test file with continuations, here.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="samples, temperature, top_k, top_p, seed, ..."),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="The newest adapter instead of the best.")] = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Continue every item of a test file; run again after a stop, it goes on.

    \b
    Examples:
      kctl generate lora_di3 --test chameleons/test.json --out answers.json
      kctl generate @latest --test t.json --out a.json --set temperature=0.7
    """
    sampling = _sampling(sets or [])
    if not _NAME.fullmatch(out.name):
        raise UsageError(f"--out {out}: the file's name must be letters, digits, '.', '_' or '-' and end with .json")
    if out.exists():
        raise UsageError(f"--out {out}: exists; move it away, or name another")
    backend, name = located(run, local, namespace, context)
    words = (name, "--test", test, "--out", out.name, "--sampling", json.dumps(sampling))
    work = Work("generate", "trainer.generate", (*words, "--last") if last else words, ranks=True)
    watched(backend.work(name, work), "the same command", local)
    with backend.files(name) as files:
        bring(files, f"{RunFolder(Path()).generated.name}/{out.name}", out)
    console.data(str(out))


def _sampling(sets: list[str]) -> dict[str, Any]:
    """All fields, checked. UsageError or ConfigError names what is wrong."""
    from kctl.config.overrides import apply_set
    from trainer.schema.loading import validated
    from trainer.schema.sampling import Sampling

    value: dict[str, Any] = {}
    for assignment in sets:
        apply_set(Sampling, value, assignment)
    return validated(Sampling, value, "--set").model_dump()
