"""What programs print that no launcher watches: filtered whoever writes it and however they end, in its order."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.lives import alive
from tests.planted_secrets import PLANTED, leaks
from trainer.schema.redaction import HIDDEN

BEGIN = "import os, subprocess, sys, time\n"
WORDS = "\n".join(words for words, _ in PLANTED.values())
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "WORDS": WORDS, "MY_TOKEN": "own-0123-own"}


def begun(code: str, **how: Any) -> "subprocess.Popen[bytes]":
    """The filter with a program that does `code`."""
    argv = [sys.executable, "-m", "trainer.pod.filtered", "-c", BEGIN + code]
    return subprocess.Popen(argv, env=ENVIRONMENT, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how})


@pytest.mark.parametrize(
    "code",
    [
        "print(os.environ['WORDS'], os.environ['MY_TOKEN'])",
        "print(os.environ['WORDS'], os.environ['MY_TOKEN'], file=sys.stderr)",
        "os.write(1, os.environb[b'WORDS'] + b'own-0123-own')",
        "subprocess.run('echo \"$WORDS $MY_TOKEN\"', shell=True)",
        "sys.exit(os.environ['WORDS'] + 'own-0123-own')",
    ],
    ids=["stdout", "stderr", "not by Python", "another process", "at its end"],
)
@pytest.mark.parametrize("end", ["", "os._exit(9)", "os.abort()", "os.kill(os.getpid(), 9)"])
def test_nothing_passes_and_nothing_else_is_lost(code: str, end: str) -> None:
    with begun(f"print('first')\n{code}\n{end}") as process:
        said, past = process.communicate(timeout=60)
    assert leaks(said) == [] and b"own-0123-own" not in said and past == b""
    assert said.startswith(b"first\n") and said.count(b"\n") >= len(PLANTED) and HIDDEN.encode() in said
    codes = {"": 0, "os._exit(9)": 9, "os.abort()": 128 + 6}
    assert process.returncode == (1 if "sys.exit" in code else codes.get(end, 128 + 9))


def test_each_line_comes_when_it_is_printed_and_in_its_order() -> None:
    code = "for _ in range(500): print('out'); print('err', file=sys.stderr)\nsys.stdin.readline()\nprint('after')"
    with begun(code, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(1000)] == [b"out\n", b"err\n"] * 500
        assert process.communicate(b"\n") == (b"after\n", b"") and process.returncode == 0


def test_who_is_left_behind_does_not_keep_it() -> None:
    began = time.monotonic()
    with begun("subprocess.Popen(['sleep', '60'])\nprint('done')", start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == b"done\n"
        assert process.wait(30) == 0 and time.monotonic() - began < 30
        os.killpg(process.pid, 9)


def test_a_reader_that_has_gone_is_told_to_the_program() -> None:
    ours, theirs = os.pipe()
    code = "end = time.monotonic() + 30\nwhile time.monotonic() < end: print('x' * 9)"
    with begun(code, stdout=theirs) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait(30) == 1, "BrokenPipeError"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + 15), (signal.SIGKILL, -9)])
def test_the_program_ends_with_it(number: int, code: int) -> None:
    with begun("print(os.getpid())\ntime.sleep(60)") as process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(30) == code
        deadline = time.monotonic() + 30
        while alive(program):
            assert time.monotonic() < deadline
            time.sleep(0.05)
