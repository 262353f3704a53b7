"""A file of data that is written harms no other."""

import os
from pathlib import Path

import pytest

from trainer.dataset.writing import write_rows
from trainer.errors import DataError


def test_what_is_written_truncates_nothing_else(tmp_path: Path) -> None:
    """Somebody else may write to the folder: a link with the name that the file has until it is complete."""
    victim, out = tmp_path / "victim", tmp_path / "out.jsonl"
    victim.write_text("precious")
    (tmp_path / f".out.jsonl.{os.getpid()}.tmp").symlink_to(victim)
    write_rows(out, "messages", [{"a": 1}])
    assert victim.read_text() == "precious" and out.read_text() == '{"a": 1}\n'
    with pytest.raises(DataError, match="victim/out: cannot be written: File exists: name another place"):
        write_rows(victim / "out", "messages", [])
