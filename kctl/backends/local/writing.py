"""A volume that is a folder of this machine, to write: a receiver process for each connection, which ends with it."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from kctl.backends.volume import Volume

_SECONDS = 60.0
"""Without an answer; what takes long says so every second."""


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[Volume]:
    """The folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []

    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(_SECONDS)
        words = ["-P", "-m", "trainer.receiver", "--root", str(folder), "--connection", str(theirs.fileno())]
        with theirs:  # the process has a session of its own: Ctrl-C is for us, and it ends with its connection
            processes.append(
                subprocess.Popen([sys.executable, *words], pass_fds=[theirs.fileno()], start_new_session=True)
            )
        return ours

    volume = Volume(str(folder), connect)
    try:
        yield volume
    finally:
        volume.close()
        for process in processes:
            process.wait()
