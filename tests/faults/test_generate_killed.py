"""A generation on two ranks that is killed goes on with another number of ranks, and gives the same bytes."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.training.answering_run import answering_run
from tests.training.finished_runs import FinishedRun
from trainer.schema.sampling import Sampling

SAMPLING = Sampling(samples=3, max_new_tokens=48, temperature=1.5)
RANKS = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")


def words(made: FinishedRun, out: str) -> list[str]:
    sampling = ["--sampling", SAMPLING.model_dump_json()]
    return ["trainer.generate", made.run, "--test", "test.json", "--out", out, *sampling]


def test_killed_ranks_lose_nothing_that_was_answered(tmp_path: Path) -> None:
    made = answering_run(tmp_path)
    whole = made.program(*words(made, "whole.json"))
    assert whole.returncode == 0, whole.stderr
    argv = [sys.executable, "-m", *RANKS, *words(made, "torn.json")]
    process = subprocess.Popen(argv, env=made.environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("answered"):
        assert process.poll() is None
    assert "of 8 items (rank 0 of 2)" in line
    process.send_signal(signal.SIGTERM)  # torchrun ends its ranks with it
    process.communicate()
    assert not (made.folder.generated / "torn.json").exists()
    again = made.program(*words(made, "torn.json"))
    assert again.returncode == 0 and ", 0 answered before" not in again.stdout, again.stdout
    assert (made.folder.generated / "torn.json").read_bytes() == (made.folder.generated / "whole.json").read_bytes()
