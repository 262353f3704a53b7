"""How fast logs are read, beside stern and kubectl in the same run, and how fast short commands answer."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.cluster.conftest import BIN, GIVEN, HERE, Measured
from tests.cluster.jobs import shell_job
from tests.cluster.shell import Shell

pytestmark = [pytest.mark.usefixtures("restricted", "volumes"), pytest.mark.timeout(900)]
PODS, LINES, ROUNDS = 4, 60_000, 3
RUN = "talk-11111111"
SELECTOR = f"training.kubeflow.org/job-name={RUN}"
TALK = f"""
awk 'BEGIN {{ for (i = 1; i <= {LINES}; i++)
  print "step=" i "/{LINES} loss=1.2345 lr=2.0e-04 grad_norm=0.81 tokens_per_s=5210 mem_gib=31.2 eta_s=5400" }}'
sleep 600
"""


@pytest.fixture(scope="module")
def talked(shell: Shell, busybox: str) -> str:
    """A run of four pods that have printed all they will."""
    value = shell_job(RUN, busybox, TALK, workers=PODS)
    value["metadata"]["labels"] = {"kctl.dev/run": RUN, "kctl.dev/config": "talk"}
    shell.kubectl("create", "-f", "-", stdin=json.dumps(value))
    shell.wait_for(RUN, "Running")
    for number in range(PODS):
        while f"step={LINES}/" not in shell.kubectl("logs", f"{RUN}-worker-{number}", "--tail=1", check=False):
            time.sleep(0.5)
    return RUN


@pytest.fixture(scope="module")
def stern() -> str:
    built = subprocess.run([HERE / "tool.sh", "stern"], timeout=1800, check=False)
    assert built.returncode == 0, "its messages stand above"
    return str(BIN / "stern")


def _lines_per_second(shell: Shell, *command: str) -> float:
    """Lines, since each tool writes a prefix of its own length before them."""
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=shell.environment) as process:
        assert process.stdout is not None
        lines = 0
        while block := process.stdout.read(1 << 20):
            lines += block.count(b"\n")
    assert process.returncode == 0 and lines == PODS * LINES, f"{command[0]}: {lines} lines"
    return lines / (time.monotonic() - begun)


@pytest.mark.skipif(bool(GIVEN), reason="stern is built for the cluster of this machine")
def test_logs_are_read_as_fast_as_by_stern_and_kubectl(
    shell: Shell, talked: str, stern: str, measured: Measured
) -> None:
    kubectl = [shell.kubectl_path, "-n", shell.namespace, "logs", "-l", SELECTOR, "--tail=-1", "--prefix"]
    tools: dict[str, list[str]] = {
        "kctl": [sys.executable, "-m", "kctl", "logs", talked, "-n", shell.namespace],
        "stern": [stern, "-n", shell.namespace, "-l", SELECTOR, "--no-follow", "--tail=-1", "--color=never"],
        "kubectl": [*kubectl, f"--max-log-requests={PODS}"],
    }
    all_rounds: dict[str, list[float]] = {name: [] for name in tools}
    for _ in range(ROUNDS):  # in turn, since the machine's speed drifts
        for name, command in tools.items():
            all_rounds[name].append(_lines_per_second(shell, *command))
    rates = {name: statistics.median(found) for name, found in all_rounds.items()}
    measured("logs of 4 pods, lines a second: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items()))
    # kctl starts 0.3 s later than they do and asks for times, by which a cut is mended: 0.54 to 1.2 was measured here.
    assert rates["kctl"] >= 0.4 * max(rates["stern"], rates["kubectl"])


def test_commands_answer_in_time(shell: Shell, talked: str, measured: Measured) -> None:
    """Best of three, as a person sees it: the whole process."""

    def best(act: Callable[[], "subprocess.CompletedProcess[str]"]) -> float:
        seconds = []
        for _ in range(3):
            begun = time.monotonic()
            done = act()
            seconds.append(time.monotonic() - begun)
            assert done.returncode == 0, done.stderr
        return min(seconds)

    def kctl(*argv: str) -> "subprocess.CompletedProcess[str]":
        environment = {**shell.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "kctl", *argv, "-n", shell.namespace]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    seeds = iter(range(100, 103))
    submit = best(lambda: kctl("submit", "demo", "--set", f"train.seed={next(seeds)}"))
    status = best(lambda: kctl("status", talked))
    measured(f"submit {submit:.2f} s, status {status:.2f} s")
    assert submit <= 1.5 and status <= 1.0
