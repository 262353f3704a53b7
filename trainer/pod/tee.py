"""Everything this pod prints goes to stdout and, through a thread of its own, to a log file on the runs volume.

No credential passes. A volume that fails or hangs costs lines of that file, which are counted, and never stops the
training.
"""

import contextlib
import queue
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.schema.redaction import line_by_line, redacted

CHUNK = 16 * 1024
"""Longest piece of a line, in bytes: a line of any length passes in pieces."""
KEPT = 4 * 1024
"""Most bytes of a piece that wait for the next one: a credential in two pieces would be told in neither."""
TAIL = 64 * 1024
WAITING = 2048
"""Pieces that may wait for a slow volume: at most 2048 x 20 KiB = 40 MiB."""
_TRIES = 32
"""Spaces at the end of a piece at which it may be cut."""
_NEXT = tuple(start + "x" * 20 for start in ("", '"', '= "', '"value": "'))
"""Words that are credentials only by what stands before them."""


class Tee:
    """stdout at once, the file once open() named it; lines said before that are in it too."""

    def __init__(self, stdout: BinaryIO | None = None) -> None:
        self.lost = 0
        """Pieces that are not in the file."""
        self.path: Path | None = None
        """Where the file is, once it is open."""
        self._stdout: BinaryIO | None = stdout or sys.stdout.buffer
        self._queue: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._writer: threading.Thread | None = None
        self._stalled = False
        self._closed = False

    def open(self, path: Path) -> None:
        """Begin the file at `path` with what was said so far; call it once."""
        self.path = path
        self._writer = threading.Thread(target=self._write, args=(path,), name="log", daemon=True)
        self._writer.start()

    def say(self, text: str) -> None:
        """One line of the launcher's own."""
        self._put(redacted(text).encode("utf-8", errors="replace") + b"\n")

    def pump(self, stream: BinaryIO) -> bytes:
        """Pass on `stream` to its end, whatever its bytes are; returns its last TAIL bytes."""
        tail = bytearray()
        for piece, clean in pieces(stream):
            tail += piece
            if len(tail) > 2 * TAIL:
                del tail[:-TAIL]
            self._put(clean)
        return bytes(tail[-TAIL:])

    def close(self, timeout: float = 5.0) -> None:
        """Let the file catch up for `timeout` seconds and say what is missing in it."""
        if self._writer is None or self._closed:
            return
        self._closed = True
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout)
        self._writer.join(timeout)
        missing = self.lost + self._queue.qsize()
        if missing:
            self._print(
                f"the log file on the runs volume lacks {missing} lines: the volume failed or was slow\n".encode()
            )

    def _put(self, piece: bytes) -> None:
        self._print(piece)
        if self._closed:
            return
        try:
            # A volume may lag for a second; one that hangs longer is not waited for again until it moves.
            self._queue.put(piece, block=self._writer is not None and not self._stalled, timeout=1.0)
            self._stalled = False
        except queue.Full:
            self._stalled = True
            self.lost += 1

    def _print(self, piece: bytes) -> None:
        if self._stdout is None:
            return
        try:
            self._stdout.write(piece)
            self._stdout.flush()
        except OSError:  # nobody reads us any more; the file still does
            self._stdout = None

    def _write(self, path: Path) -> None:
        file: BinaryIO | None = None
        while (piece := self._queue.get()) is not None:
            try:
                if file is None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    file = path.open("ab", buffering=0)
                file.write(piece)
            except OSError:
                self.lost += 1
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def pieces(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(what came, what may be shown now) of `stream` to its end, a line at a time."""
    kept, clean = b"", line_by_line()
    while (piece := stream.readline(CHUNK)) or kept:
        shown, kept = _cut(kept + piece) if piece else (kept, b"")
        # Bytes that are no text stay as they are.
        yield piece, clean(shown.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _cut(piece: bytes) -> tuple[bytes, bytes]:
    """What may be printed of a piece, and the words at its end that may go on in the next one."""
    if piece.endswith(b"\n"):
        return piece, b""
    begin = max(0, len(piece) - KEPT)
    ends = [begin + space.end() for space in re.finditer(rb"\s", piece[begin:])]
    end = next((end for end in ends[: -_TRIES - 1 : -1] if not _calls(piece[max(0, end - 200) : end])), len(piece))
    return piece[:end], piece[end:]


def _calls(words: bytes) -> bool:
    """True where what comes next may be a credential by what stands before it, such as `token: `."""
    said = words.decode("utf-8", "replace")
    return not all(redacted(said + word).endswith(word) for word in _NEXT)
