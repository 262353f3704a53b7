"""What the ranks print: huge lines, bytes that are no text, volumes that fail or hang."""

import io
import os
import sys
import threading
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.pod import tee
from trainer.pod.tee import Tee


def test_every_byte_arrives_in_both_places(tmp_path: Path) -> None:
    @settings(max_examples=40, deadline=None)
    @given(lines=st.lists(st.binary(max_size=50), max_size=20), last=st.binary(max_size=5))
    def check(lines: list[bytes], last: bytes) -> None:
        content = b"\n".join([*lines, last])
        path = tmp_path / "log"
        path.unlink(missing_ok=True)
        out = io.BytesIO()
        log = Tee(out)
        log.open(path)
        assert log.pump(io.BytesIO(content)) == content
        log.close()
        assert out.getvalue() == content and log.lost == 0
        assert not content or path.read_bytes() == content

    check()


def test_huge_lines_and_floods_pass(tmp_path: Path) -> None:
    content = b"\xff\xfe" * 3_000_000 + b"\n" + b"x\n" * 50_000
    out = io.BytesIO()
    log = Tee(out)
    log.open(tmp_path / "logs" / "log")
    tail = log.pump(io.BytesIO(content))
    log.close()
    assert out.getvalue() == content and (tmp_path / "logs" / "log").read_bytes() == content
    assert len(tail) == tee.TAIL and content.endswith(tail)


def test_lines_said_before_the_file_is_known_are_in_it(tmp_path: Path) -> None:
    log = Tee(io.BytesIO())
    for number in range(3):
        log.say(f"early {number} \udcff")
    log.open(tmp_path / "log")
    log.say("late")
    log.close()
    assert (tmp_path / "log").read_text() == "early 0 ?\nearly 1 ?\nearly 2 ?\nlate\n"


def test_a_failing_volume_costs_lines_of_the_file_only() -> None:
    out = io.BytesIO()
    log = Tee(out)
    log.open(Path("/dev/full"))
    log.pump(io.BytesIO(b"line\n" * 100))
    log.close()
    assert log.lost == 100
    assert out.getvalue().count(b"line\n") == 100
    assert b"lacks 100 lines: the volume failed or was slow" in out.getvalue()


def test_a_hanging_volume_does_not_stop_the_ranks(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it for writing hangs until somebody reads
    out = io.BytesIO()
    log = Tee(out)
    log.open(pipe)
    began = time.monotonic()
    log.pump(io.BytesIO(b"line\n" * (tee.WAITING + 1000)))
    assert time.monotonic() - began < 3.0
    log.close(timeout=0.2)
    assert out.getvalue().count(b"line\n") == tee.WAITING + 1000
    assert b"lines: the volume failed or was slow" in out.getvalue()
    threading.Thread(target=pipe.read_bytes, daemon=True).start()


def test_nobody_reading_stdout_does_not_stop_the_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = Tee(os.fdopen(writer, "wb", buffering=0))
    log.open(tmp_path / "log")
    log.pump(io.BytesIO(b"a\nb\n"))
    log.close()
    assert (tmp_path / "log").read_bytes() == b"a\nb\n"


def test_by_default_it_is_stdout() -> None:
    assert Tee()._stdout is getattr(sys.stdout, "buffer", None)
