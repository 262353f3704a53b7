"""Bringing files to a volume: each compared by sha256 on both sides, resumed at the byte, shown once all are there.

What is on its way lies aside on the volume (trainer.staging). A file of other content is never overwritten unasked.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from kctl.backends.trouble import GIVE_UP_SECONDS, Trouble
from kctl.backends.volume import Found, Volume, VolumeFile
from kctl.errors import Damaged, KctlError, NotFound, Refused, Unreachable, UsageError
from kctl.run.page import size_of

PIECE = 64 << 20
"""Bytes until the volume says that it has them: an answer's delay does not count, and it is synced meanwhile."""
_CHUNK = 1 << 20
_NAMED = 5
"""So many files are named in an error."""

Progress = Callable[[int, int], None]
"""Told bytes done and bytes in all."""
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Source:
    """A file here, and its path below what is pushed (empty: it is what is pushed)."""

    path: Path
    name: str


@dataclass(frozen=True)
class Pushed:
    """How much lies there now, and how many of the files were not there before."""

    files: int
    size: int
    fresh: int


def hub_folder(path: Path) -> Path | None:
    """The folder of a model in a Hugging Face cache whose snapshot `path` is: its files are links into it."""
    model = path.parent.parent
    return model if path.parent.name == "snapshots" and model.name.count("--") >= 2 else None


def sources(path: Path) -> list[Source]:
    """The files at and below `path`, by name. UsageError where a link leads to no file of that folder (or cache)."""
    if not path.exists():
        raise NotFound(f"{path}: no such file or folder")
    if path.is_file():
        return [Source(path, "")]
    if (path / "snapshots").is_dir() and (path / "blobs").is_dir():
        newest = max((path / "snapshots").iterdir(), key=lambda one: one.stat().st_mtime, default="HASH")
        raise UsageError(f"{path}: a model of a hub's cache: push one of its snapshots, e.g. {newest}")
    inside = (hub_folder(path.absolute()) or path).resolve()
    found = [Source(file, file.relative_to(path).as_posix()) for file in _walk(path, inside)]
    if not found:
        raise UsageError(f"{path}: there is no file in it")
    return sorted(found, key=lambda one: one.name)


def _walk(path: Path, inside: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(path, onerror=_raise):
        for name in (*folders, *names):
            file = Path(folder) / name
            if file.is_symlink() and not (file.is_file() and file.resolve().is_relative_to(inside)):
                raise UsageError(f"{file}: a link to no file of {inside}: put a copy there, or remove it")
            if name in names:
                if not file.is_file():
                    raise UsageError(f"{file}: is neither a file nor a folder: remove it")
                yield file


def _raise(error: OSError) -> None:
    raise error


def described(source: Source, target: PurePosixPath, progress: Callable[[int], None]) -> VolumeFile:
    """What it is to be on the volume, its bytes read once; `progress` is told how many are."""
    path, done = str(target / source.name), 0
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{source.path}: its name is no UTF-8; give it another one") from None
    digest = hashlib.sha256()
    with source.path.open("rb", buffering=0) as data:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(done)
    return VolumeFile(path, done, digest.hexdigest())


def describe(found: Sequence[Source], target: PurePosixPath, progress: Progress) -> list[VolumeFile]:
    """The same of all of them."""
    sizes = [one.path.stat().st_size for one in found]
    told, before = [], 0
    for one, size in zip(found, sizes, strict=True):
        told.append(described(one, target, _from(progress, before, sum(sizes))))
        before += size
    return told


def _from(progress: Progress, before: int, size: int) -> Callable[[int], None]:
    return lambda more: progress(before + more, size)


def push(
    volume: Volume, files: Sequence[VolumeFile], found: Sequence[Source], replace: bool, progress: Progress
) -> Pushed:
    """Bring `files`, which are here as `found`, to the volume.

    KctlError, and nothing is changed, where others are there and not `replace`, or where they do not fit.
    """
    size = sum(file.size for file in files)
    free, there = steadily(lambda: volume.begin(files))
    fresh, other, done = [], [], 0
    for file, source, held in zip(files, found, there, strict=True):
        if held.there == file.size and steadily(lambda file=file: volume.same(file)):  # type: ignore[misc]
            done += file.size
            progress(done, size)
            continue
        fresh.append((file, source, held))
        if held.there is not None:
            sizes = f"there {size_of(held.there)}, here {size_of(file.size)}"
            other.append(f"{file.path} ({'of the same size' if held.there == file.size else sizes})")
    if other and not replace:
        more = f" and {len(other) - _NAMED} more" if len(other) > _NAMED else ""
        raise KctlError(
            f"{len(other)} of {len(files)} files are there with another content: {', '.join(other[:_NAMED])}{more}; "
            "nothing was changed; push again with --replace to overwrite them, or with --as NAME beside them"
        )
    missing = sum(file.size - held.sent for file, _, held in fresh)
    if missing > free:
        raise KctlError(f"{size_of(missing)} do not fit: the volume has {size_of(free)} free; make room, or enlarge it")
    for file, source, held in fresh:
        _bring(volume, file, source.path, held.sent, _from(progress, done, size))
        done += file.size
    if fresh:
        steadily(lambda: volume.publish([file for file, _, _ in fresh], replace))
    return Pushed(len(files), size, len(fresh))


def _bring(volume: Volume, file: VolumeFile, path: Path, sent: int, progress: Callable[[int], None]) -> None:
    """The file, complete and right, onto the volume; what was sent before is continued, or anew if it was wrong."""
    while True:
        _send(volume, file, path, sent, progress)
        if steadily(lambda: volume.check(file)):
            return
        if sent == 0:
            raise Damaged(
                f"{file.path}: what arrived is not what was read before: {path} was changed meanwhile, or a disk or "
                "the network is damaged; nothing of it was kept; push again"
            )
        sent = 0


def _send(volume: Volume, file: VolumeFile, path: Path, sent: int, progress: Callable[[int], None]) -> None:
    """Send from byte `sent` on; after a break from where the volume says that it is."""
    trouble = Trouble(GIVE_UP_SECONDS)
    while sent < file.size:
        progress(sent)
        try:
            count = min(PIECE, file.size - sent)
            now = volume.append(file, sent, _chunks(path, sent, count, progress), count)
            if now <= sent:
                raise Unreachable(f"{file.path}: another push is at it, or has removed it; wait for it, and push again")
            trouble.over()
        except (Unreachable, Refused) as error:
            trouble.again(error)
            now = _arrived(steadily(lambda: volume.begin([file])))
        sent = now
    progress(file.size)


def _arrived(answer: tuple[int, list[Found]]) -> int:
    return answer[1][0].sent


def _chunks(path: Path, offset: int, count: int, progress: Callable[[int], None]) -> Iterator[bytes]:
    """KctlError where the file cannot be read: to send it again is of no use, as it is where a connection broke."""
    try:
        with path.open("rb", buffering=0) as data:
            data.seek(offset)
            end = offset + count
            while offset < end:
                chunk = data.read(min(_CHUNK, end - offset))
                if not chunk:
                    raise KctlError(f"{path}: became shorter while it was pushed; push it again once it is complete")
                offset += len(chunk)
                yield chunk
                progress(offset)
    except OSError as error:
        raise KctlError(f"{path}: {error.strerror or error}; mend it and push again") from None


def steadily(act: Callable[[], Answer]) -> Answer:
    """`act` again and again while the cluster fails us, up to GIVE_UP_SECONDS."""
    trouble = Trouble(GIVE_UP_SECONDS)
    while True:
        try:
            return act()
        except (Unreachable, Refused) as error:
            trouble.again(error)
