"""Bringing a run's report home: one file, made anew by the run now and then, so it is fetched whole every time."""

import os
import uuid
from pathlib import Path

from kctl.backends.protocol import RunFiles
from kctl.errors import Damaged, KctlError, NotFound
from trainer.schema.contract import REPORT_HEAD, RunFolder

SOURCE = RunFolder(Path()).page.name
_LIMIT = 64 << 20
"""Bytes. A report has some hundred thousand: its lines are thinned."""


def pull_report(files: RunFiles, target: Path) -> None:
    """The run's report as `target`, which is replaced. NotFound before there is one."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as out:
            for chunk in files.read(SOURCE):
                out.write(chunk)
                if out.tell() > _LIMIT:
                    raise Damaged(f"{SOURCE}: more than {_LIMIT} bytes; this is no report of a run")
            out.flush()
            os.fsync(out.fileno())
        part.rename(target)
    except NotFound:
        raise NotFound(
            f"no {SOURCE} there: a run writes it at its first evaluation and its end; see kctl status {target.stem}"
        ) from None
    except OSError as error:
        raise KctlError(f"{target}: {error.strerror or error}; mend it and pull again") from None
    finally:
        part.unlink(missing_ok=True)


def harmless(page: Path) -> bool:
    """True where a browser executes nothing of the page: it begins with the policy that forbids it."""
    with page.open("rb") as file:
        head = REPORT_HEAD.encode()
        return file.read(len(head)) == head
