"""Writes a LoRA run's checkpoints beside training, one at a time.

Every rank has a thread that writes its file and, when that is safe on the volume, a marker with the file's sha256; rank
0's waits for all markers, then publishes. The threads issue no collective: what failed on one rank is agreed on by the
main threads, at a step's end or where they wait for the write.
"""

import shutil
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from trainer.atomic import named_errors, read_object, write_json
from trainer.checkpoints import Files
from trainer.distributed import Ranks, gathered
from trainer.errors import RunsFolderError, TrainerError
from trainer.lora_state import Snapshot
from trainer.slices import keyed, write_slices

LOOK = 0.05
"""Seconds between two looks of rank 0's thread for the others' markers."""


class Writer:
    """The write in progress, if there is one. Methods are the main thread's."""

    def __init__(self, ranks: Ranks, snapshot: Snapshot) -> None:
        self._ranks = ranks
        self._snapshot = snapshot
        self._thread: threading.Thread | None = None
        self._temp = Path()
        self._error: TrainerError | None = None
        self._own_done = threading.Event()
        self._abandoned = threading.Event()
        self.overdue = False
        """It was said that the next one waits."""

    @property
    def busy(self) -> bool:
        """On rank 0: true until the checkpoint is published or given up. On others: until their file is written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """True where this rank has something to tell; all must then call finish()."""
        return self._thread is not None and self._error is not None

    def begin(self, temp: Path, about: dict[str, str], publish: Callable[[Files], None]) -> None:
        """Copy and write into `temp`, which is there and empty; rank 0's thread calls `publish` with all files.

        Every rank calls it at the same step, after finish(). `about` goes into the header of each file.
        """
        assert self._thread is None, "one at a time"
        self._temp, self._error, self.overdue = temp, None, False
        self._own_done.clear()
        self._abandoned.clear()
        self._snapshot.begin()
        self._thread = threading.Thread(target=self._work, args=(about, publish), name="checkpoint", daemon=True)
        self._thread.start()

    def copied(self) -> None:
        """Before masters change: return once the copy is made."""
        self._snapshot.wait()

    def finish(self) -> None:
        """Collective: return once the write in progress is published.

        If it failed on any rank, every rank raises that error, and nothing is left of it.
        """
        if self._thread is None:
            return
        self._own_done.wait()
        self._agree(self._thread)  # else rank 0 would wait for the file of a rank that could not write
        self._thread.join()
        self._agree(self._thread)
        self._thread = None

    def _agree(self, thread: threading.Thread) -> None:
        error = next(filter(None, gathered(self._error)), None)
        if error is None:
            return
        self._abandoned.set()
        thread.join()
        self._thread = None
        dist.barrier()
        if self._ranks.first:  # a full volume is shared: what is half written would fill it for all others
            shutil.rmtree(self._temp, ignore_errors=True)
        raise error

    def _work(self, about: dict[str, str], publish: Callable[[Files], None]) -> None:
        try:
            if self._ranks.device.type == "cuda":  # a new thread's is the first GPU, another rank's
                torch.cuda.set_device(self._ranks.device)
            self._write_own(about)
            self._own_done.set()
            if self._ranks.first and (files := self._all_files()):
                publish(files)
        except TrainerError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 (the boundary of this thread: the main thread raises it again)
            traceback.print_exc()
            self._error = TrainerError(f"the checkpoint's writer failed: {type(error).__name__}: {error}")
        finally:
            self._own_done.set()

    def _write_own(self, about: dict[str, str]) -> None:
        path = self._file(self._ranks.rank)
        signed = write_slices(path, dict(keyed(self._snapshot.slices())), {**about, "rank": str(self._ranks.rank)})
        write_json(path.with_suffix(".json"), signed)

    def _all_files(self) -> Files | None:
        """Size and sha256 of every rank's file, once all are there; None where the main thread gave up."""
        files: Files = {}
        for rank in range(self._ranks.world):
            path = self._file(rank)
            marker = path.with_suffix(".json")
            while not (signed := read_object(marker)):
                if self._abandoned.wait(LOOK):
                    return None
            with named_errors(path):
                size = path.stat().st_size
                marker.unlink()
            if size != signed["size"]:
                raise RunsFolderError(
                    f"{path}: rank {rank} wrote {signed['size']} bytes, {size} are there: check the volume"
                )
            files[path.name] = signed
        return files

    def _file(self, rank: int) -> Path:
        return self._temp / f"rank-{rank:04d}.safetensors"
