"""A run's numbers as an event file for TensorBoard, one for each attempt, in tensorboard/ of the run's folder.

Written by tensorboardX's record writer, at once: its SummaryWriter has a thread that a full volume ends, after which
whoever adds a number waits for ever.
"""

import time
from collections.abc import Iterator
from typing import Any

from trainer.atomic import named_errors
from trainer.schema.contract import RunFolder

FLUSH_SECONDS = 30.0
"""How long numbers may stay in memory; an evaluation's are written out at once."""


class EventFile:
    """Rank 0's. RunsFolderError where the volume takes no more."""

    def __init__(self, folder: RunFolder, done: int) -> None:
        """`done`: the step from which this attempt goes on."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._folder = folder.tensorboard
        with named_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            self._file = RecordWriter(str(self._folder / f"events.out.tfevents.{time.time():.0f}.after-step-{done}"))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # Hides what an attempt before wrote of the steps that are trained again.
        self._add(Event(wall_time=time.time(), step=done + 1, session_log=SessionLog(status=SessionLog.START)))
        self._flushed = time.monotonic()

    def write(self, record: dict[str, Any]) -> None:
        """The numbers of a record of metrics.jsonl; null is left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(record)]
        self._add(Event(wall_time=time.time(), step=int(record["step"]), summary=Summary(value=values)))
        if "evaluation" in record or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flushed = time.monotonic()
            with named_errors(self._folder):
                self._file.flush()

    def close(self) -> None:
        """Write out and end."""
        with named_errors(self._folder):
            self._file.close()

    def _add(self, event: Any) -> None:
        with named_errors(self._folder):
            self._file.write(event.SerializeToString())


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    section = "evaluation" if "evaluation" in record else "training"
    flat = {**record, **record.get("evaluation", {})}
    for name, value in flat.items():
        if isinstance(value, int | float) and name not in ("step", "steps"):
            yield f"{section}/{name}", value
