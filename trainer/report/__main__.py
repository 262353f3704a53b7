"""Writes report.html and loss.png of the run in FOLDER; under a launcher only while that still owns the run."""

import argparse
import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from trainer.atomic import write_bytes, write_text
from trainer.errors import OwnershipLost, TrainerError
from trainer.pod.ownership import still_owner
from trainer.report.history import read_history
from trainer.report.page import page
from trainer.report.picture import picture
from trainer.schema.contract import ENV_OWNER, RunFolder


def write(folder: RunFolder) -> None:
    """Both files, each by rename. RunsFolderError where that fails, OwnershipLost where the run is another's."""
    owner = os.environ.get(ENV_OWNER)

    def guard() -> None:
        if owner is not None and not still_owner(folder, owner):
            raise OwnershipLost("another pod owns this run now and writes its report")

    guard()
    for left in (*folder.root.glob(".report.html.*.tmp"), *folder.root.glob(".loss.png.*.tmp")):
        left.unlink(missing_ok=True)  # of a report whose rank was killed
    history = read_history(folder)
    write_text(folder.page, page(history, datetime.now(UTC)), guard)
    drawn = picture(history)
    if drawn is not None:
        write_bytes(folder.picture, drawn, guard)


def main() -> int:
    """Exit code 1 and one line where there is no report; a run never fails with it."""
    parser = argparse.ArgumentParser(prog="python -m trainer.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="the run's folder on the runs volume")
    folder = RunFolder(parser.parse_args().folder)
    os.nice(10)  # the ranks come first
    try:
        write(folder)
    except TrainerError as error:
        print(f"no new report: {error}", file=sys.stderr, flush=True)
        return 1
    except Exception as error:  # noqa: BLE001 (the boundary: a report that fails is a line of the run's log)
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
        print(f"no new report: {said[:500]}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
