"""Reads TensorBoard's event files: of each record length, checksum, bytes, checksum."""

import struct
from typing import Any

from tensorboardX.proto.event_pb2 import Event

from trainer.schema.contract import RunFolder


def events(folder: RunFolder) -> list[Any]:
    """All events of a run, in the order of the files."""
    found = []
    for path in sorted(folder.tensorboard.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found
