"""How a rank ends: as a process, since a Python that goes down under gloo's threads can abort."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENDING = """
import atexit, sys
from trainer.distributed import end_process
class Never:
    def __del__(self): print("Python went down")
kept = Never()
atexit.register(print, "; done")
sys.stdout.write("said")
sys.stderr.write("warned")
end_process({code})
"""
FOLLOWED = """
import sys, wandb
from trainer.distributed import end_process
settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False)
run = wandb.init(project="kctl-tests", mode="offline", dir=sys.argv[1], settings=settings)
for step in range(1, 4):
    run.log({"loss": step + 0.123456}, step=step)
end_process(1)
"""


@pytest.mark.parametrize("code", [0, 7])
def test_a_rank_ends_without_taking_python_down(code: int) -> None:
    done = subprocess.run([sys.executable, "-c", ENDING.format(code=code)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "said; done\n")
    assert done.stderr.endswith("warned")


def test_a_rank_whose_reader_is_gone_keeps_its_code() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    argv = [sys.executable, "-c", ENDING.format(code=3)]
    rank = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=buffered)
    assert rank.stdout is not None
    rank.stdout.close()
    assert rank.wait(timeout=60) == 3


def test_a_rank_that_fails_leaves_wandb_all_it_told(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", FOLLOWED, tmp_path], timeout=120, check=False).returncode == 1
    (store,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    told = store.read_bytes()
    assert all(f"{step}.123456".encode() in told for step in range(1, 4))
