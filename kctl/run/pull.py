"""Bringing an adapter home: every file checked against the manifest, resumed at the byte, shown by one rename.

Unfinished files lie in a hidden folder beside the target. What comes from the volume is not trusted: names stay
below the target, sizes and digests must be those of MANIFEST.json.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kctl.backends.protocol import RunFiles
from kctl.backends.trouble import GIVE_UP_SECONDS, Trouble
from kctl.errors import Damaged, KctlError, NotFound, Refused, Unreachable
from trainer.schema.contract import MANIFEST

_MANIFEST_LIMIT = 4 << 20
_NAME = re.compile(r"^(?!\.)[A-Za-z0-9._-]{1,200}$")
_MADE_BY = {"merged": "merge", "exported": "export"}
"""Folder of a run -> the verb that makes it; the adapter is the run's own."""
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Entry:
    """One file of the manifest."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Pulled:
    """Where the adapter lies now; fresh is False where it was there already."""

    folder: Path
    files: int
    size: int
    fresh: bool


def parse_manifest(data: bytes, where: str) -> list[Entry]:
    """The entries of a MANIFEST.json, by name. Damaged where it is not one, or a name leads elsewhere."""
    try:
        files: Any = json.loads(data)["files"]
        entries = [Entry(name, value["size"], value["sha256"]) for name, value in files.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Damaged(f"{where}: no manifest of an adapter; the run writes it again at its next evaluation") from None
    for entry in entries:
        whole = isinstance(entry.size, int) and not isinstance(entry.size, bool) and entry.size >= 0
        digest = isinstance(entry.sha256, str) and _SHA256.match(entry.sha256)
        if not _NAME.match(entry.name) or entry.name == MANIFEST or not whole or not digest:
            raise Damaged(f"{where}: bad entry {entry.name[:80]!r}: wants a plain file name, a size and a sha256")
    if not entries:
        raise Damaged(f"{where}: lists no files")
    return sorted(entries, key=lambda entry: entry.name)


def pull(
    files: RunFiles, source: str, target: Path, progress: Callable[[int, int], None] = lambda done, size: None
) -> Pulled:
    """Bring folder `source` of the run to `target`. NotFound before there is one, Damaged where a file is wrong.

    `progress` is told bytes done and bytes in all.
    """
    try:
        data = _manifest(files, source)
        entries = parse_manifest(data, f"{source}/{MANIFEST}")
        size = sum(entry.size for entry in entries)
        if target.exists():
            if _same(target, data, entries):
                return Pulled(target, len(entries), size, fresh=False)
            _refuse_foreign(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_name(f".{target.name}.part")) as part:
            data, entries = _download(files, source, part, data, entries, progress)
            _arrive(part, target, data, entries)
        return Pulled(target, len(entries), sum(entry.size for entry in entries), fresh=True)
    except OSError as error:
        raise KctlError(f"{error.filename or target}: {error.strerror or error}; mend it and pull again") from None


def _manifest(files: RunFiles, source: str) -> bytes:
    data = b""
    try:
        for chunk in files.read(f"{source}/{MANIFEST}"):
            data += chunk
            if len(data) > _MANIFEST_LIMIT:
                raise Damaged(f"{source}/{MANIFEST}: more than {_MANIFEST_LIMIT} bytes; this is no adapter's manifest")
    except NotFound:
        verb = _MADE_BY.get(source.removesuffix("-last"))
        made = f"first: kctl {verb}" if verb else "a run writes it at its first evaluation or its end; see kctl status"
        raise NotFound(f"no {source} there: {made}") from None
    return data


def _download(
    files: RunFiles,
    source: str,
    part: Path,
    data: bytes,
    entries: list[Entry],
    progress: Callable[[int, int], None],
) -> tuple[bytes, list[Entry]]:
    """Fetch into `part`; where the run wrote a newer adapter meanwhile, that one."""
    while True:
        try:
            done, size = 0, sum(entry.size for entry in entries)
            for entry in entries:
                _fetch_checked(files, source, part, entry, _from(progress, done, size))
                done += entry.size
            return data, entries
        except (Damaged, NotFound):
            newer = _manifest(files, source)
            if newer == data:
                raise
            data, entries = newer, parse_manifest(newer, f"{source}/{MANIFEST}")


def _from(progress: Callable[[int, int], None], before: int, size: int) -> Callable[[int], None]:
    return lambda more: progress(before + more, size)


def _fetch_checked(files: RunFiles, source: str, part: Path, entry: Entry, progress: Callable[[int], None]) -> None:
    """One file, complete and right; what a former pull left is continued, and fetched anew if that was wrong."""
    path = part / entry.name
    resumed = path.exists()
    while True:
        _fetch(files, f"{source}/{entry.name}", path, entry.size, progress)
        if path.stat().st_size == entry.size and digest(path) == entry.sha256:
            return
        found = f"{path.stat().st_size} bytes, sha256 {digest(path)[:12]}..."
        path.unlink()
        if not resumed:
            raise Damaged(
                f"{source}/{entry.name}: the volume has {found}, its manifest says {entry.size} bytes, "
                f"sha256 {entry.sha256[:12]}...; nothing was kept: the file is damaged there, or still being written"
            )
        resumed = False


def _fetch(files: RunFiles, source: str, path: Path, size: int, progress: Callable[[int], None]) -> None:
    """Append to `path` from its end on, never past `size` + 1 bytes; a cut transfer is taken up again."""
    trouble = Trouble(GIVE_UP_SECONDS)
    with path.open("ab") as out:
        while out.tell() < size:
            before = out.tell()
            try:
                for chunk in files.read(source, before):
                    out.write(chunk[: size + 1 - out.tell()])
                    progress(min(out.tell(), size))
                    if out.tell() > size:
                        break
                break
            except (Unreachable, Refused) as error:
                out.flush()
                if out.tell() > before:
                    trouble.over()
                trouble.again(error)
        out.flush()
        os.fsync(out.fileno())
    progress(size)


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same(target: Path, manifest: bytes, entries: list[Entry]) -> bool:
    held = target / MANIFEST
    return held.is_file() and held.read_bytes() == manifest and _first_wrong(target, entries) is None


def _first_wrong(target: Path, entries: list[Entry]) -> str | None:
    for entry in entries:
        path = target / entry.name
        if not path.is_file() or path.stat().st_size != entry.size or digest(path) != entry.sha256:
            return entry.name
    return None


def _refuse_foreign(target: Path) -> None:
    """Only an untouched former pull is replaced: a folder with a person's changes is theirs."""
    held = target / MANIFEST
    remedy = f"move {target} away, or pull with --to DIR"
    if not held.is_file():
        raise KctlError(f"{target}: exists and is no pulled adapter; {remedy}")
    entries = parse_manifest(held.read_bytes(), str(held))
    wrong = _first_wrong(target, entries)
    if wrong is not None:
        raise Damaged(f"{target / wrong}: missing or changed since it was pulled; {remedy}")
    added = {path.name for path in target.iterdir()} - {entry.name for entry in entries} - {MANIFEST}
    if added:
        raise KctlError(f"{target / min(added)}: was added after the pull of an older adapter; {remedy}")


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[Path]:
    """The folder of unfinished files, for one pull at a time; kept after an error so that the next one resumes."""
    part.mkdir(exist_ok=True)
    lock = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield part
    except BlockingIOError:
        raise KctlError(f"{part}: another pull of this adapter is running; wait for it") from None
    finally:
        os.close(lock)


def _arrive(part: Path, target: Path, manifest: bytes, entries: list[Entry]) -> None:
    """Turn the complete folder into the target; a former pull makes room and is removed afterwards."""
    wanted = {entry.name for entry in entries}
    for path in part.iterdir():
        if path.name not in wanted:
            path.unlink()
    with (part / MANIFEST).open("wb") as file:
        file.write(manifest)
        file.flush()
        os.fsync(file.fileno())
    former = target.with_name(f".{target.name}.old")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        _refuse_foreign(target)  # again: a person may have written there during the download
        target.rename(former)
    part.rename(target)
    shutil.rmtree(former, ignore_errors=True)
