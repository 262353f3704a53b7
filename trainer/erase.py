"""Removes one run's folder from the runs volume: `python -m trainer.erase --root /runs/RUN`. Standard library only.

Owns the run first, as an attempt would, so that nothing is taken from under a trainer that still writes.
"""

import argparse
import shutil
import sys
import uuid
from pathlib import Path

from trainer.atomic import named_errors
from trainer.errors import TrainerError
from trainer.pod.ownership import Timing, acquire
from trainer.schema.contract import RunFolder

TIMING = Timing(patience=60.0)
"""Seconds: an owner that lives is not waited for longer than one that was killed needs to be told from it."""


def erase(root: Path, timing: Timing = TIMING) -> bool:
    """Remove the run folder `root`; False where there is none. RunsFolderError where a living pod owns it."""
    if not root.is_dir():
        return False
    acquire(RunFolder(root), f"erase-{uuid.uuid4()}", lambda text: print(text, flush=True), timing).release()
    with named_errors(root):
        shutil.rmtree(root)
    return True


def main() -> int:
    """Exit code of the contract; one sentence on stdout."""
    parser = argparse.ArgumentParser(description="remove one run's folder")
    parser.add_argument("--root", type=Path, required=True)
    chosen = parser.parse_args()
    try:
        print(f"{chosen.root}: {'removed' if erase(chosen.root) else 'was not there'}", flush=True)
    except TrainerError as error:
        print(error, flush=True)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
