"""Files that arrive on a volume: kept aside under what they are to be, checked, then shown, each at once.

A file on its way lies in FOLDER, called after its path and its sha256: what was cut goes on at its byte, and the bytes
of another content are never continued. It is reached as `trainer.arrival` has it, past no link. Standard library only.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from trainer.arrival import CHUNK, FOLDER, Arriving, Tick, below, holds, size_of

BUSY_SECONDS = 60.0
"""Another content for the same path is left alone until nothing has arrived for so long: somebody may be sending."""
KEPT_SECONDS = 7 * 86400.0
"""What nobody went on with for a week is removed."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What NFS and FUSE say where a file cannot have two names."""


def free(root: Path) -> int:
    """Bytes that still fit."""
    return shutil.disk_usage(root).free


def found(root: Path, file: Arriving) -> dict[str, int | None]:
    """`there`: bytes of the file at its path, None: nothing is; `sent`: bytes that have arrived before.

    OSError where something else than a file is in the way.
    """
    there = None
    with contextlib.suppress(FileNotFoundError), below(root, file.parts[:-1]) as folder:
        there = size_of(folder, file.parts[-1], file.path)
    with contextlib.suppress(FileNotFoundError), below(root, [FOLDER]) as folder:
        for name in (file.whole, file.part):
            with contextlib.suppress(FileNotFoundError):
                return {"there": there, "sent": size_of(folder, name, f"{FOLDER}/{name}")}
    return {"there": there, "sent": 0}


def clean(root: Path, files: Sequence[Arriving]) -> None:
    """Remove what nobody goes on with: other contents for the same paths, and what is old."""
    keys = {file.key: {file.whole, file.part} for file in files}
    with contextlib.suppress(FileNotFoundError), below(root, [FOLDER]) as folder:
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
        ages = {entry.name: time.time() - entry.stat(follow_symlinks=False).st_mtime for entry in kept}
        quiet = min(ages.values(), default=0.0) > BUSY_SECONDS
        for name, age in ages.items():
            superseded = name not in keys.get(name[:17], {name})
            if age > KEPT_SECONDS or (superseded and quiet):
                os.unlink(name, dir_fd=folder)


def same(root: Path, file: Arriving, tick: Tick) -> bool:
    """Whether the file at its path is that one."""
    with contextlib.suppress(FileNotFoundError), below(root, file.parts[:-1]) as folder:
        return holds(folder, file.parts[-1], file, tick)
    return False


def append(root: Path, file: Arriving, offset: int, source: BinaryIO, count: int) -> int:
    """Add the next `count` bytes of `source` at `offset`, as many as come; how many bytes are there now.

    Where `offset` is not the end of what is there, or somebody else adds to it, nothing is written.
    """
    with below(root, [FOLDER], make=True) as folder:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(file.part, flags, 0o664, dir_fd=folder)
    with os.fdopen(descriptor, "wb", buffering=0) as out:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(out.fileno()).st_size == offset and offset + count <= file.size:
                left = count
                while left and (chunk := source.read(min(left, CHUNK))):
                    left -= len(chunk)
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[out.write(rest) :]
                os.fdatasync(out.fileno())
        return os.fstat(out.fileno()).st_size


def check(root: Path, file: Arriving, tick: Tick) -> bool:
    """Whether what has arrived is the file; what is not is removed."""
    with below(root, [FOLDER], make=True) as folder:
        if file.size == 0:  # nothing was sent
            os.close(os.open(file.part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o664, dir_fd=folder))
        for name in (file.whole, file.part):
            with contextlib.suppress(FileNotFoundError):
                if holds(folder, name, file, tick):
                    os.rename(name, file.whole, src_dir_fd=folder, dst_dir_fd=folder)
                    return True
                os.unlink(name, dir_fd=folder)
    return False


def publish(root: Path, files: Sequence[Arriving], replace: bool, tick: Tick) -> None:
    """Show all files, each at once. OSError before the first where one did not arrive, or another is in the way.

    Without `replace` a file that comes there even later is kept: OSError then, with those before it shown.
    """
    waiting = [file for file in files if not _shown(root, file, replace, tick)]
    for file in waiting:
        with below(root, [FOLDER]) as staged, below(root, file.parts[:-1], make=True) as folder:
            _show(staged, folder, file, replace)
            os.fsync(folder)
    with contextlib.suppress(OSError):  # others' files are on their way, or it was never there
        (root / FOLDER).rmdir()


def _show(staged: int, folder: int, file: Arriving, replace: bool) -> None:
    name = file.parts[-1]
    if not replace:
        try:
            os.link(file.whole, name, src_dir_fd=staged, dst_dir_fd=folder, follow_symlinks=False)
            os.unlink(file.whole, dir_fd=staged)
            return
        except FileExistsError:
            raise _another(file) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    os.rename(file.whole, name, src_dir_fd=staged, dst_dir_fd=folder)


def _another(file: Arriving) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "another file has come there meanwhile", file.path)


def _shown(root: Path, file: Arriving, replace: bool, tick: Tick) -> bool:
    """True where it is at its path already; False where it may be put there."""
    with contextlib.suppress(FileNotFoundError), below(root, [FOLDER]) as folder:
        size_of(folder, file.whole, f"{FOLDER}/{file.whole}")
        if found(root, file)["there"] is None or replace:
            return False
        if not same(root, file, tick):
            raise _another(file)
        os.unlink(file.whole, dir_fd=folder)
        return True
    if not same(root, file, tick):
        raise FileNotFoundError(errno.ENOENT, "what was sent of it is gone", file.path)
    return True
