"""How a rank ends: as a process, since a Python that goes down under gloo's threads can abort."""

import os
import subprocess
import sys

import pytest

ENDING = """
import atexit, sys
from trainer.distributed import end_process
atexit.register(print, "Python went down")
sys.stdout.write("said")
sys.stderr.write("warned")
end_process({code})
"""


@pytest.mark.parametrize("code", [0, 7])
def test_a_rank_ends_without_taking_python_down(code: int) -> None:
    done = subprocess.run([sys.executable, "-c", ENDING.format(code=code)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "said")
    assert done.stderr.endswith("warned")


def test_a_rank_whose_reader_is_gone_keeps_its_code() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    argv = [sys.executable, "-c", ENDING.format(code=3)]
    rank = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=buffered)
    assert rank.stdout is not None
    rank.stdout.close()
    assert rank.wait(timeout=60) == 3
