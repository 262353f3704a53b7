"""A file that is to arrive on a volume: which one, what it is called on its way, and how folders and files are opened.

No link is followed, nothing above the root is touched. Standard library only.
"""

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = ".kctl-push"
"""Directly below the root, for what is on its way; gone once nothing is."""
CHUNK = 1 << 20
"""Bytes read at once."""
_SHA256 = re.compile(r"[0-9a-f]{64}")

Tick = Callable[[], None]
"""Called again and again during what takes long."""


@dataclass(frozen=True)
class Arriving:
    """A file as it is to be: its path below the root, its bytes, and their digest."""

    path: str
    size: int
    sha256: str

    @property
    def parts(self) -> list[str]:
        return self.path.split("/")

    @property
    def key(self) -> str:
        """Which path it is for."""
        return hashlib.sha256(self.path.encode()).hexdigest()[:16] + "."

    @property
    def whole(self) -> str:
        """Its name in FOLDER once it is complete and right."""
        return self.key + self.sha256

    @property
    def part(self) -> str:
        """Its name in FOLDER until then."""
        return self.whole + ".part"


def arriving(path: Any, size: Any, sha256: Any) -> Arriving:
    """What somebody asks for. ValueError where a path leads elsewhere, or it is nothing of that kind."""
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not (isinstance(path, str) and whole and isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ValueError("wants a path, a size and a sha256")
    parts = path.split("/")
    if "\0" in path or parts[0] == FOLDER or {"", ".", ".."} & set(parts):
        raise ValueError(f"{path}: leads elsewhere")
    return Arriving(path, size, sha256)


@contextlib.contextmanager
def below(root: Path, parts: Sequence[str], make: bool = False) -> Iterator[int]:
    """A descriptor of a folder below `root`. Each part is opened by itself and no link followed: OSError there."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o775, dir_fd=descriptor)
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def size_of(folder: int, name: str, path: str) -> int:
    """Bytes of the file `name`; OSError with `path` where it is something else."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EEXIST, "something that is no file is there", path)
    return status.st_size


def holds(folder: int, name: str, file: Arriving, tick: Tick) -> bool:
    """Whether the file `name` is that one, by its size and sha256."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(descriptor, "rb", buffering=0) as data:
        status = os.fstat(data.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return False
        digest = hashlib.sha256()
        while chunk := data.read(CHUNK):
            digest.update(chunk)
            tick()
        return digest.hexdigest() == file.sha256
