"""What programs print beside the launcher: filtered at the descriptor, whoever writes there and however they end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.planted_secrets import PLANTED, leaks
from trainer.schema.redaction import HIDDEN

ROOT = Path(__file__).parents[2]
BEGIN = "import os, subprocess, sys; from trainer.pod.filtered import filtered\nwith filtered():\n "
WORDS = "\n".join(words for words, _ in PLANTED.values())


def printed(code: str, stdout: int = subprocess.PIPE) -> "subprocess.CompletedProcess[bytes]":
    """A program that does `code` inside."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORDS": WORDS, "MY_TOKEN": "own-0123-own"}
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code], env=environment, stdout=stdout, stderr=subprocess.PIPE, timeout=60
    )


@pytest.mark.parametrize(
    "code",
    [
        "print(os.environ['WORDS'], os.environ['MY_TOKEN'])",
        "print(os.environ['WORDS'], os.environ['MY_TOKEN'], file=sys.stderr)",
        "os.write(1, os.environb[b'WORDS'] + b'own-0123-own')",
        "subprocess.run('echo \"$WORDS $MY_TOKEN\"', shell=True)",
    ],
    ids=["stdout", "stderr", "not by Python", "another process"],
)
@pytest.mark.parametrize("end", ["", "\nos._exit(0)", "; sys.stdout.flush(); os.kill(os.getpid(), 9)"])
def test_nothing_passes_and_nothing_else_is_lost(code: str, end: str) -> None:
    done = printed(f"print('first', flush=True); {code}{end}")
    said = done.stdout + done.stderr
    assert leaks(said) == [] and b"own-0123-own" not in said
    assert said.startswith(b"first\n") and said.count(b"\n") >= len(PLANTED) and HIDDEN.encode() in said


def test_each_line_comes_when_it_is_printed_to_its_own_stream() -> None:
    code = "print('out', flush=True); print('err', file=sys.stderr); sys.stdin.readline()\nprint('after')"
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", BEGIN + code]
    with subprocess.Popen(argv, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None and process.stderr is not None
        assert (process.stdout.readline(), process.stderr.readline()) == (b"out\n", b"err\n")
        assert process.communicate(b"\n") == (b"after\n", b"") and process.returncode == 0


def test_who_is_left_behind_does_not_keep_the_program() -> None:
    began = time.monotonic()
    code = "subprocess.Popen(['sleep', '60'], stderr=subprocess.DEVNULL); print('done', flush=True)\nos._exit(0)"
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"done\n"
        assert process.wait(30) == 0 and time.monotonic() - began < 30
        os.killpg(process.pid, 9)


def test_a_reader_that_has_gone_is_told_to_the_program() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    code = "import time; end = time.monotonic() + 30\n while time.monotonic() < end: print('x' * 9, flush=True)"
    done = printed(code, theirs)
    os.close(theirs)
    assert done.returncode and b"BrokenPipeError" in done.stderr
