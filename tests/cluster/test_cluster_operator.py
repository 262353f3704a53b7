"""The real operator, its webhook, kubelet, network and storage: what kctl's design takes for granted of them."""

import json
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import GIVEN
from tests.cluster.jobs import shell_job
from tests.cluster.shell import Shell

pytestmark = pytest.mark.usefixtures("restricted", "volumes")
POD = "jsonpath={range .items[*]}{.metadata.uid} {end}"


def _create(shell: Shell, job: dict[str, object]) -> None:
    shell.kubectl("create", "-f", "-", stdin=json.dumps(job))


def _pods(shell: Shell, run: str) -> list[str]:
    """The uids of the run's pods."""
    return shell.kubectl("get", "pods", "-l", f"training.kubeflow.org/job-name={run}", "-o", POD).split()


def test_one_node_succeeds_and_writes_its_volume(shell: Shell, busybox: str, volumes: dict[str, Path]) -> None:
    _create(shell, shell_job("alone-11111111", busybox, "id -u > /runs/alone; env"))
    shell.wait_for("alone-11111111", "Succeeded")
    environment = shell.kubectl("logs", "alone-11111111-master-0").splitlines()
    assert {"PET_NNODES=1", "PET_NPROC_PER_NODE=1", "WORLD_SIZE=1"} <= set(environment)
    assert "MASTER_ADDR=alone-11111111-master-0" in environment
    if not GIVEN:
        assert (volumes["runs"] / "alone").read_text() == "1000\n"


def test_two_workers_find_each_other_by_name_and_both_must_succeed(shell: Shell, busybox: str) -> None:
    """No init container, no elasticPolicy: worker 1 talks to worker 0, which outlives it.

    A listener whose input ends says so to the other side, which then leaves, at times before it has said a word:
    so its input is a pipe that it holds open itself.
    """
    run = "pair-11111111"
    talk = f"""
if [ "$INDEX" = 0 ]; then mkfifo /dev/shm/open; nc -l -p 23456 0<>/dev/shm/open; sleep 3; echo the last; exit; fi
until nslookup {run}-worker-0.{shell.namespace}.svc.cluster.local; do sleep 0.2; done
until echo hello from worker 1 | nc -w 5 {run}-worker-0 23456; do sleep 0.2; done
"""
    _create(shell, shell_job(run, busybox, talk, workers=2))
    shell.wait_for(run, "Succeeded")
    assert shell.kubectl("logs", f"{run}-worker-0") == "hello from worker 1\nthe last\n"
    spec = json.loads(shell.kubectl("get", "pod", f"{run}-worker-1", "-o", "json"))["spec"]
    assert "initContainers" not in spec


def test_one_failed_worker_fails_the_job(shell: Shell, busybox: str) -> None:
    _create(shell, shell_job("half-11111111", busybox, "exit $INDEX", workers=2))
    shell.wait_for("half-11111111", "Failed")


def test_the_webhook_refuses(shell: Shell, busybox: str) -> None:
    nameless = shell_job("nameless-11111111", busybox, "true", name="trainer")
    misnamed = shell_job("1-digit", busybox, "true")
    for job, why in ((nameless, "pytorch"), (misnamed, "should match")):
        refused = shell.refusal("create", "-f", "-", stdin=json.dumps(job))
        assert "admission webhook" in refused and why in refused


def test_the_namespace_refuses_a_pod_that_is_not_restricted(shell: Shell, busybox: str) -> None:
    _create(shell, shell_job("root-11111111", busybox, "true", securityContext={}))
    about_it = ("get", "events", "--field-selector", "involvedObject.name=root-11111111", "-o", "jsonpath={..message}")
    for _ in range(100):
        if "violates PodSecurity" in shell.kubectl(*about_it):
            break
        time.sleep(0.2)
    else:
        raise AssertionError("no event says why there is no pod")
    assert _pods(shell, "root-11111111") == []
    shell.kubectl("delete", "pytorchjob", "root-11111111")


@pytest.mark.parametrize("code", [128, 143])
def test_a_high_exit_code_creates_the_pod_again(shell: Shell, busybox: str, code: int) -> None:
    run = f"again-{code:08d}"
    _create(shell, shell_job(run, busybox, f"[ -e /runs/{run} ] && exit; sleep 1; touch /runs/{run}; exit {code}"))
    shell.kubectl("wait", "--for=create", f"pod/{run}-master-0", "--timeout=30s")
    (before,) = _pods(shell, run)
    shell.wait_for(run, "Succeeded")
    (after,) = _pods(shell, run)
    assert after != before


@pytest.mark.parametrize("code", [1, 127])
def test_a_low_exit_code_fails_the_job(shell: Shell, busybox: str, code: int) -> None:
    run = f"failed-{code:08d}"
    _create(shell, shell_job(run, busybox, f"exit {code}"))
    shell.wait_for(run, "Failed")
    pods = shell.kubectl(
        "get", "pods", "-l", f"training.kubeflow.org/job-name={run}", "-o", "jsonpath={.items[*].status.phase}"
    )
    assert pods == "Failed", "it stays, with its log"


def test_suspend_deletes_the_pods_and_resume_creates_them(shell: Shell, busybox: str) -> None:
    run = "pause-11111111"
    _create(shell, shell_job(run, busybox, "trap 'exit 143' TERM; sleep 600 & wait"))
    shell.wait_for(run, "Running")
    suspend = '{"spec": {"runPolicy": {"suspend": %s}}}'
    shell.kubectl("patch", "pytorchjob", run, "--type=merge", "-p", suspend % "true")
    shell.wait_for(run, "Suspended")
    shell.kubectl("wait", "--for=delete", f"pod/{run}-master-0", "--timeout=30s")
    assert _pods(shell, run) == []
    shell.kubectl("patch", "pytorchjob", run, "--type=merge", "-p", suspend % "false")
    shell.kubectl("wait", "--for=create", f"pod/{run}-master-0", "--timeout=30s")
    shell.kubectl("delete", "pytorchjob", run)


def test_a_pod_gets_gpus_that_the_node_says_it_has(shell: Shell, busybox: str, gpus: None) -> None:
    limits = {"limits": {"nvidia.com/gpu": 8}}
    _create(shell, shell_job("gpus-11111111", busybox, "true", resources=limits))
    shell.wait_for("gpus-11111111", "Succeeded")
