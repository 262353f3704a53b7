"""The adapter of a run merged into its base model: `python -m trainer.merge RUN [--last]`.

Writes RUN/merged (or merged-last) on the runs volume: the base's own files, shard by shard, with what was trained
added; it appears by rename. Shards that a killed merge finished are kept for the next one. Needs no GPU and no more
memory than a few of the largest tensors.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trainer.adapters import base_name, listing
from trainer.after.deltas import open_deltas
from trainer.after.finished import Finished, command, finished
from trainer.after.weight_files import DTYPES, INDEX, copy_changed, places, weight_files
from trainer.atomic import heal, named_errors, read_object, replace_folder, write_json, write_text
from trainer.base_model import base_digest
from trainer.errors import CheckpointError, ConfigError, RunsFolderError
from trainer.metrics import say
from trainer.model import check_weights
from trainer.schema.contract import MANIFEST
from trainer.whole_model import TOKENIZER_FILES

COPIED = ("config.json", "generation_config.json", INDEX, *TOKENIZER_FILES)
"""What a model folder has beside its weights."""


def merge(run: Finished, target: Path) -> None:
    """`target` as a model folder that transformers and servers load. Nothing to do where it is there already.

    ConfigError: there is nothing to merge, or the base is quantised or arranged unknown. CheckpointError: the adapter
    does not fit. RunsFolderError: no space, or another merge is at it.
    """
    if run.full:
        raise ConfigError(f"{run.adapter}: method full trains the whole model: it is there, there is nothing to merge")
    check_weights(run.base)
    sources = weight_files(run.base)
    found = {place.name: place for path in sources for place in places(path)}
    of = {"adapter": run.digest, "base": base_digest(run.base)}
    if target.exists() and _merged_of(target) == of:
        say(f"already there: {target}")
        return
    if target.exists() and "adapter" not in read_object(target / MANIFEST):
        raise RunsFolderError(f"{target}: exists and is no merged model: move it away and merge again")
    with ExitStack() as stack:
        deltas = open_deltas(stack, run.base, run.adapter, {name: place.shape for name, place in found.items()})
        odd = sorted(name for name in deltas.names if found[name].dtype not in DTYPES)
        if odd:
            raise ConfigError(f"{run.base}: {odd[0]} is {found[odd[0]].dtype}: quantised weights cannot be merged into")
        part = stack.enter_context(_alone(target.with_name(f".{target.name}.part")))
        _begin(part, sources, of)
        for number, source in enumerate(sources, 1):
            if not (part / source.name).exists():
                with named_errors(part):
                    copy_changed(source, part / source.name, deltas.of)
            say(f"merged {number} of {len(sources)} files, {_gib(sources[:number]):.2f} of {_gib(sources):.2f} GiB")
        _finish(part, target, run, of)


def _merged_of(target: Path) -> dict[str, Any]:
    """Which adapter and base a merged folder is made of; an unfinished one says so from its beginning."""
    manifest = read_object(target / MANIFEST)
    return {name: manifest.get(name) for name in ("adapter", "base")}


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[Path]:
    """The unfinished folder, for one merge at a time; kept after an error, so that the next one goes on."""
    with named_errors(part):
        part.mkdir(exist_ok=True)
        lock = os.open(part, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunsFolderError(f"{part}: another merge is at work ({error.strerror}): wait for it") from None
        yield part
    finally:
        os.close(lock)


def _begin(part: Path, sources: Sequence[Path], of: dict[str, str]) -> None:
    """Keep what a killed merge of the same adapter finished, drop everything else; there must be room for the rest."""
    heal(part)
    if _merged_of(part) != of:
        with named_errors(part):
            for path in part.iterdir():
                path.unlink()
        write_json(part / MANIFEST, of)
    left = [path for path in sources if not (part / path.name).exists()]
    if len(left) < len(sources):
        say(f"{len(sources) - len(left)} of {len(sources)} files are there from a merge that was stopped")
    free = shutil.disk_usage(part).free / 2**30
    if _gib(left) > free:
        raise RunsFolderError(
            f"{part.parent}: the merged model needs {_gib(left):.2f} GiB more and {free:.2f} GiB are free: "
            "make room there and merge again"
        )


def _finish(part: Path, target: Path, run: Finished, of: dict[str, str]) -> None:
    with named_errors(part):
        for name in COPIED:
            if (run.base / name).is_file():
                shutil.copyfile(run.base / name, part / name)
    write_text(part / "README.md", _card(run))
    files = {name: entry for name, entry in listing(part).items() if name != MANIFEST}
    write_json(part / MANIFEST, {"files": files, "run": run.file.run, **of})
    if run.digest != finished(run.file.run, run.adapter == run.folder.adapter_last).digest:
        raise CheckpointError(f"{run.adapter}: the run wrote a newer one meanwhile: merge again")
    replace_folder(part, target)
    say(f"done: {target}")


def _card(run: Finished) -> str:
    name, step = base_name(run.file.train), read_object(run.adapter / MANIFEST).get("step")
    front = f"---\nbase_model: {name}\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n"
    return f"{front}\n# {run.file.run}, merged\n\n{name} with the adapter of step {step} added to its weights.\n"


def _gib(paths: Sequence[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / 2**30


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.merge", description="Merge a run's adapter.")
    parser.add_argument("run", help="a folder of the runs volume (TRAINER_RUNS)")
    parser.add_argument("--last", action="store_true", help="the newest adapter instead of the best")
    chosen = parser.parse_args()

    def story() -> None:
        run = finished(chosen.run, chosen.last)
        merge(run, run.folder.merged_last if chosen.last else run.folder.merged)

    return command(story)


if __name__ == "__main__":
    sys.exit(main())
