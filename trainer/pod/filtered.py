"""What a program prints passes a process of its own, which takes credentials out: for those that no launcher watches.

A process and not a thread: what C code prints must pass, too, while it holds Python's lock, and what a crash left in
the pipe is still shown (unless its container ends with it).
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

from trainer.pod.tee import pieces

LAST_SECONDS = 5.0
"""How long the end waits for what was printed: a process that was left behind may hold the pipe for ever."""


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """While the block lasts, no credential leaves through stdout or stderr; at its end all is out."""
    with _filtered(1, sys.stdout), _filtered(2, sys.stderr):
        yield


@contextlib.contextmanager
def _filtered(descriptor: int, stream: TextIO) -> Iterator[None]:
    # Nobody shall take it for a rank, and no signal to the program's group ends it before the program's last words.
    environ = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    argv = [sys.executable, "-m", "trainer.pod.filtered"]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=descriptor, env=environ, bufsize=0, start_new_session=True
    )
    assert process.stdin is not None
    stream.flush()
    own = os.dup(descriptor)
    os.dup2(process.stdin.fileno(), descriptor)
    process.stdin.close()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            stream.flush()
            os.dup2(own, descriptor)  # not where the flush failed: what is left would go past the filter
        os.close(own)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_SECONDS)


def main() -> None:
    """stdin to stdout until its end. Where nobody reads us, the program meets a broken pipe, as without us."""
    out = sys.stdout.buffer
    try:
        for _, clean in pieces(sys.stdin.buffer):
            out.write(clean)
            out.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would say so once more at its end


if __name__ == "__main__":
    main()
