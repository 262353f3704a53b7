"""Runs a program and passes on what it prints, without credentials: `python -m trainer.pod.filtered WORDS` runs
`python WORDS`. For the programs that no launcher watches.

A process of its own: what C code and children print passes, too, in the order in which it came, and the last words of a
program that dies are still told, since the container ends with us and not with it.
"""

import os
import signal
import subprocess
import sys
import threading
from typing import BinaryIO, cast

from trainer.pod.ranks import tied
from trainer.pod.tee import pieces

LAST_SECONDS = 5.0
"""How long the end waits for what was printed: a process that was left behind may hold the pipe for ever."""


def main() -> int:
    """The program's exit code, as a shell tells it."""
    program = subprocess.Popen(
        tied([sys.executable, *sys.argv[1:]]),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the program as well
    printed = cast(BinaryIO, program.stdout)
    telling = threading.Thread(target=_tell, args=(printed,), daemon=True)
    telling.start()
    code = program.wait()
    telling.join(LAST_SECONDS)
    return 128 - code if code < 0 else code


def _tell(printed: BinaryIO) -> None:
    """`printed` to its end, on stdout. Where that takes no more, the program meets a broken pipe, as without us."""
    try:
        for _, clean in pieces(printed):
            while clean:
                clean = clean[os.write(1, clean) :]
    except OSError:
        printed.close()


if __name__ == "__main__":
    os._exit(main())  # the other thread may wait for the pipe still
