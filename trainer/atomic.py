"""Files that appear by rename, complete or not at all: written beside, synced, renamed, the folder synced.

Used by launcher and ranks, for the runs volume and for node-local files. Knows nothing of what is in them. Every
failure is a RunsFolderError that names the path and what to do.
"""

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.errors import RunsFolderError

Guard = Callable[[], None]
"""Asked right before the rename, after all slow writing; raises where the rename must not happen."""

_REMEDIES = {
    errno.ENOSPC: "make room there and submit again",
    errno.EDQUOT: "make room below the quota and submit again",
    errno.EROFS: "mount the volume read-write and submit again",
    errno.EACCES: "let the pod's user write there (profile: run_as) and submit again",
    errno.EPERM: "let the pod's user write there (profile: run_as) and submit again",
}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object at `path`; {} where there is none, or nothing that makes sense."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Any, guard: Guard | None = None) -> None:
    """`value` as readable JSON at `path`. RunsFolderError if it cannot be written; ValueError for NaN."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", guard)


def write_text(path: Path, text: str, guard: Guard | None = None) -> None:
    """`text` as UTF-8 at `path` (what is no character becomes '?'). RunsFolderError if it cannot be written."""
    write_bytes(path, text.encode("utf-8", errors="replace"), guard)


def write_bytes(path: Path, content: bytes, guard: Guard | None = None) -> None:
    """`content` at `path`. RunsFolderError if it cannot be written."""
    temp = temporary(path)
    try:
        with named_errors(path):
            with temp.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if guard is not None:
                guard()
            temp.rename(path)
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def replace_folder(temp: Path, final: Path, guard: Guard | None = None) -> None:
    """Sync all of `temp`, then let it take the place of `final`, which may exist. RunsFolderError on failure.

    Everybody may read its files: safetensors lets their owner alone, and the next pod may be another user.
    """
    try:
        with named_errors(final):
            _replace(temp, final, guard)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(temp)
        raise


def _replace(temp: Path, final: Path, guard: Guard | None) -> None:
    aside = final.with_name(f".{final.name}.old")
    for folder, _, names in os.walk(temp):
        for name in names:
            Path(folder, name).chmod(0o644)
            sync_file(Path(folder, name))
        _sync_folder(Path(folder))
    if guard is not None:
        guard()
    if final.exists():
        _remove(aside)
        final.rename(aside)
    temp.rename(final)
    _sync_folder(final.parent)
    _remove(aside)


def heal(folder: Path) -> None:
    """Undo what a killed writer left in `folder`: bring back a folder caught between two renames, drop the rest."""
    if not folder.is_dir():
        return
    with named_errors(folder):
        for aside in folder.glob(".*.old"):
            final = folder / aside.name.removeprefix(".").removesuffix(".old")
            if final.exists():
                _remove(aside)
            else:
                aside.rename(final)
        for temp in folder.glob(".*.tmp"):
            _remove(temp)


def temporary(final: Path) -> Path:
    """A name beside `final` that no other writer has, and that `heal` removes."""
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}.tmp")


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what the file system says about `path` into a RunsFolderError with the remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the volume and submit again")
        raise RunsFolderError(f"{path}: {error.strerror or error}: {remedy}") from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Return once the file's content is on the disk. OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    try:
        sync_file(path)
    except OSError as error:
        # Some network file systems have no fsync of folders; their renames are as durable as they get.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
