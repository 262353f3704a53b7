"""kctl push PATH --to models|data: a model or data onto the volume that runs read it from."""

import shlex
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from kctl import console
from kctl.errors import KctlError, UsageError
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, where_flags
from kctl.run.page import size_of
from kctl.run.push import describe, hub_folder, sources
from kctl.run.push import push as push_files
from trainer.schema.contract import DATA_MOUNT, MODELS_MOUNT

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kctl.backends.volume import Volume

FIELDS = {"models": "train.model.path", "data": "train.data.path"}
"""The volumes that runs read, and the field of a config that names what lies there."""

_MOUNTS = {"models": MODELS_MOUNT, "data": DATA_MOUNT}


def push(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or a folder.")],
    to: Annotated[
        str, typer.Option("--to", metavar="VOLUME[/FOLDER]", help="models or data; PATH goes into it by its name.")
    ],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Call it otherwise there.")] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="CONFIG", help="Whose profile names the claims; else the one called default."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite files that differ there.")] = False,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Put a model or data onto the volume that runs read it from; run again after a cut, it goes on where it stopped.

    Each file is compared by sha256 on both sides, and none is seen there before all are complete. What is there already
    is not sent again, and what differs there is kept unless --replace.

    \b
    Examples:
      kctl push chameleons/train.json --to data/chameleons
      kctl push ~/models/Qwen3-30B-A3B-Instruct-2507 --to models --config lora_di3
    """
    volume, target = place(to, name or _name(path))
    try:
        found = sources(path)
        with console.progress("sha256") as progress:
            files = describe(found, target, progress)
        with _opened(volume, config, local, namespace, context) as there, console.progress(target.name) as progress:
            pushed = push_files(there, files, found, replace, progress)
    except OSError as error:
        raise KctlError(f"{error.filename or path}: {error.strerror or error}; mend it and push again") from None
    except KeyboardInterrupt:
        again = _again(path, to, name, config, replace) + where_flags(local, namespace, context)
        console.say(f"stopped; {again} goes on from here")
        raise typer.Exit(130) from None
    what = f"{pushed.files} {'file' if pushed.files == 1 else 'files'}, {size_of(pushed.size)}"
    sent = f" ({pushed.fresh} of them sent)" if 0 < pushed.fresh < pushed.files else ""
    console.say(f"{what}{sent}, sha256 checked" if pushed.fresh else f"already there: {what}, sha256 checked")
    console.say(f"in a config: {FIELDS[volume]}: {target}")
    console.data(f"{volume}/{target}")


def place(to: str, name: str) -> tuple[str, PurePosixPath]:
    """(volume, path below it) that --to and the name mean. UsageError where that is no place for a push."""
    volume, *folders = to.removesuffix("/").split("/")
    if volume not in FIELDS:
        more = "; runs is what runs write" if volume == "runs" else ""
        raise UsageError(f"--to {to}: wants models, data, or a folder below one of them like data/chameleons{more}")
    if {"", ".", ".."} & {*folders, name} or "/" in name:
        raise UsageError(
            f"{volume}: {'/'.join([*folders, name])!r} leads elsewhere: name a folder with --to, and --as NAME"
        )
    return volume, PurePosixPath(*folders, name)


def _name(path: Path) -> str:
    """What `path` is called; a snapshot in a hub's cache is called by a hash, so by its model."""
    model = hub_folder(path.absolute())
    return model.name.split("--")[-1] if model else (path if path.name.strip(".") else path.resolve()).name


def _opened(
    volume: str, config: str | None, local: bool, namespace: str | None, context: str | None
) -> "AbstractContextManager[Volume]":
    from kctl.backends import open_backend
    from kctl.config.run_config import load_or_standard
    from kctl.manifest import the_job
    from kctl.manifest.render import render

    loaded = load_or_standard(config, [])
    claim = getattr(loaded.profile.volumes, volume)
    if claim.access_mode == "ReadOnlyMany" and not local:
        raise UsageError(
            f"volumes.{volume} of profile {loaded.config.cluster.profile}: claim {claim.claim} is ReadOnlyMany: "
            "fill it where it comes from"
        )
    job = the_job(render(loaded.config, loaded.profile, namespace).manifests)
    backend = open_backend(local, namespace, context, loaded.profile)
    return backend.volume(job, _MOUNTS[volume], claim.access_mode == "ReadWriteOnce")


def _again(path: Path, to: str, name: str | None, config: str | None, replace: bool) -> str:
    flags = [*(("--as", name) if name else ()), *(("--config", config) if config else ())]
    dashes = ["--"] if str(path).startswith("-") else []
    return shlex.join(["kctl", "push", "--to", to, *flags, *(["--replace"] if replace else []), *dashes, str(path)])
