"""One run on two nodes, and everything that can happen between a person and the API server while it trains.

It never ends by itself: the tests that need it alive come first, then it is cancelled, read, pulled, resumed, deleted.
"""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from kctl.backends.cluster.backend import Cluster
from tests.cluster.conftest import GIVEN, Measured
from tests.cluster.faults import UP, dead_api_server, until_there
from tests.cluster.relay import relayed
from tests.cluster.team import UID, Team
from trainer.schema.contract import MANIFEST, RunFolder

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(GIVEN), reason="kills the API server: only where this suite started it"),
]
MISSING = {"path": "absent.jsonl"}
CONFIG = "endless"
MIB = 2**20


@pytest.fixture(scope="module")
def endless(team: Team) -> str:
    """A run of two pods that has made a few steps."""
    run = team.config(CONFIG, nodes=2, epochs=10_000, evaluation={"per_epoch": 1})
    team.ok("submit", CONFIG)
    team.until_step(run, 8)
    return run


@pytest.fixture(scope="module")
def cancelled(team: Team, endless: str) -> str:
    """The same, saved and stopped; its pods are gone."""
    team.ok("cancel", endless)
    return endless


def _kept(team: Team, run: str, attempt: int = 1, prefix: str = "worker-{}") -> dict[int, list[str]]:
    """By node, the lines on the volume as `kctl logs` shows them."""
    folder = team.folder(run)
    texts = {node: folder.log(attempt, node).read_text().splitlines() for node in (0, 1)}
    return {node: [f"{prefix.format(node)} | {line}" for line in lines] for node, lines in texts.items()}


def _of_node(out: str, node: int, prefix: str = "worker-{}") -> list[str]:
    return [line for line in out.splitlines() if line.startswith(f"{prefix.format(node)} | ")]


def test_a_webhook_that_does_not_answer(team: Team) -> None:
    """Its operator is away; what had been created by then does not stand in the way later."""
    run, shell = team.config("webhook", data=MISSING), team.shell
    scale = ("-n", "kubeflow", "scale", "deployment/training-operator")
    shell.kubectl(*scale, "--replicas=0")
    try:
        operator = ("-n", "kubeflow", "pod", "-l", "control-plane=kubeflow-training-operator")
        shell.kubectl("wait", "--for=delete", *operator, "--timeout=50s")
        refused = team.kctl("submit", "webhook")
        there = shell.kubectl("get", "pytorchjob", run, "--ignore-not-found")
    finally:
        shell.kubectl(*scale, "--replicas=1")
        subprocess.run([UP], check=True, capture_output=True, timeout=200)
    assert refused.code == 6 and refused.out == "" and there == ""
    assert f"cannot create PyTorchJob {run}: an admission webhook does not answer" in refused.err
    assert "kubectl --context kctl-test get validatingwebhookconfigurations" in refused.err
    later = team.kctl("submit", "webhook", "--wait")
    assert later.code == 3 and "absent.jsonl: no such file" in later.err, later.err


def test_logs_of_two_pods_in_part(team: Team, endless: str) -> None:
    tail = team.ok("logs", endless, "--tail", "3").out
    since = team.ok("logs", endless, "--since", "4s", "--timestamps").out.splitlines()
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 600))
    whole = team.ok("logs", endless, "--since", begun).out
    second = team.ok("logs", endless, "--rank", "1").out.splitlines()
    kept = _kept(team, endless)
    for node in (0, 1):
        assert len(_of_node(tail, node)) == 3 and set(_of_node(tail, node)) <= set(kept[node])
        of_node = _of_node(whole, node)
        assert len(of_node) > 3 and of_node == kept[node][: len(of_node)]
    assert since and all(line.partition(" ")[2] in kept[0] + kept[1] for line in since)
    assert all(line > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 60)) for line in since)
    assert second and [f"worker-1 | {line}" for line in second] == kept[1][: len(second)]
    refused = team.kctl("logs", endless, "--rank", "7")
    assert refused.code == 2 and f"{endless}-worker-1" in refused.err


def _person(team: Team, name: str) -> str:
    """A kubeconfig of somebody who may follow runs."""
    shell = team.shell
    shell.kubectl("create", "serviceaccount", name)
    shell.kubectl("create", "rolebinding", name, "--role=follower", f"--serviceaccount={shell.namespace}:{name}")
    content = yaml.safe_load(shell.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    content["users"][0]["user"] = {"token": shell.kubectl("create", "token", name).strip()}
    path = team.root / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_rights_and_credentials_that_end_meanwhile(team: Team, endless: str, measured: Measured) -> None:
    """Whoever follows or waits is told and has exit code 6; the run goes on."""
    resources = "--resource=pytorchjobs.kubeflow.org,pods,pods/log"
    team.shell.kubectl("create", "role", "follower", "--verb=get,list,watch", resources)
    people = {"demoted": _person(team, "demoted"), "expired": _person(team, "expired")}
    commands = (("logs", "-f", endless, "--tail", "1"), ("wait", endless))
    with ThreadPoolExecutor() as pool:
        looking = {
            name: [pool.submit(team.kctl, *command, KUBECONFIG=path) for command in commands]
            for name, path in people.items()
        }
        time.sleep(8)
        assert not any(one.done() for both in looking.values() for one in both)
        team.shell.kubectl("delete", "rolebinding", "demoted")
        team.shell.kubectl("delete", "serviceaccount", "expired")
        begun, step = time.monotonic(), max(team.losses(endless))
        done = {name: [one.result() for one in both] for name, both in looking.items()}
    measured(f"told after {time.monotonic() - begun:.0f} s that rights or credentials have ended")
    for name, words in {
        "demoted": ("demoted has no right to", "kubectl --context kctl-test auth can-i"),
        "expired": ("does not accept the credentials (expired?)", "kubectl --context kctl-test auth whoami"),
    }.items():
        for one in done[name]:
            *_, seen, error = one.err.splitlines()
            assert one.code == 6 and all(word in error for word in words), one.err
            assert seen == f"lost sight of run {endless}, which goes on. Attach again: kctl logs -f {endless}"
    assert "step=" in done["demoted"][0].out
    team.until_step(endless, step + 1)


def test_an_active_run_is_not_deleted(team: Team, endless: str) -> None:
    refused = team.kctl("delete", endless, "--outputs", "--yes")
    assert refused.code == 6 and f"run {endless} is active (Running); first: kctl cancel {endless}" in refused.err


def test_following_and_waiting_outlive_the_api_server(team: Team, endless: str) -> None:
    """It is away for longer than any single call is tried again. Then a person cancels, and all ends are told."""
    with ThreadPoolExecutor() as pool:
        followed = pool.submit(team.kctl, "submit", CONFIG, "--follow")
        waited = pool.submit(team.kctl, "wait", endless)
        time.sleep(8)
        step = max(team.losses(endless))
        with dead_api_server(seconds=10):
            pass
        assert not followed.done() and not waited.done()
        assert max(team.losses(endless)) > step, "nobody asked the API server to train"
        team.ok("cancel", endless)
        ends = [followed.result(), waited.result()]
    for one in ends:
        assert one.code == 3 and f"run {endless} was cancelled" in one.err and f"kctl submit {CONFIG}" in one.err
    assert "already active (Running)" in ends[0].err
    kept = _kept(team, endless)
    for node in (0, 1):
        assert _of_node(ends[0].out, node) == kept[node], "every line once"


def test_logs_of_pods_that_are_gone(team: Team, cancelled: str) -> None:
    name = "attempt-01-node-{}"
    shown = team.ok("logs", cancelled)
    assert "its pods are gone; from the runs volume: attempt-01-node-0.log, attempt-01-node-1.log" in shown.err
    kept = _kept(team, cancelled, prefix=name)
    assert shown.out.splitlines() == kept[0] + kept[1]
    second = team.ok("logs", cancelled, "--rank", "1", "--tail", "2").out.splitlines()
    assert [f"{name.format(1)} | {line}" for line in second] == kept[1][-2:]


def test_first_byte_of_a_pull(team: Team, cluster: Cluster, cancelled: str, measured: Measured) -> None:
    """With a new reader pod, and with one that runs."""
    team.shell.kubectl("delete", "pod", f"{cancelled}-reader", "--ignore-not-found")
    took = []
    for _ in range(2):
        begun = time.monotonic()
        with cluster.files(cancelled) as files:
            assert next(files.read(f"adapter/{MANIFEST}"))
        took.append(time.monotonic() - begun)
    measured(f"first byte of a pull: {took[0]:.1f} s cold, {took[1]:.2f} s warm")
    assert took[0] < 8 and took[1] < 1


@pytest.fixture(scope="module")
def big(team: Team, cancelled: str) -> int:
    """The run's adapter with a file in it that takes a while; its size."""
    team.enlarge(cancelled, 192 * MIB)
    return 192 * MIB


def _is_whole(team: Team, run: str, to: str) -> None:
    pulled, adapter = team.root / to / run, team.folder(run).adapter
    assert sorted(path.name for path in pulled.iterdir()) == sorted(path.name for path in adapter.iterdir())
    assert all((pulled / path.name).read_bytes() == path.read_bytes() for path in adapter.iterdir())


def test_a_cut_pull_reads_at_most_a_chunk_again(team: Team, cancelled: str, big: int, measured: Measured) -> None:
    part, cuts = team.root / "cut" / f".{cancelled}.part" / "big.bin", 3
    team.ok("logs", cancelled, "--tail", "0")  # its reader runs
    with relayed(team.shell) as (relay, kubeconfig), ThreadPoolExecutor() as pool:
        (team.root / "relay.kubeconfig").write_text(kubeconfig)
        environment = {"KUBECONFIG": str(team.root / "relay.kubeconfig")}
        pulled = pool.submit(team.kctl, "pull", cancelled, "--to", "cut", **environment)
        for cut in range(cuts):
            until_there(part, (1 + cut) * big // (cuts + 2))
            relay.cut()
        done = pulled.result()
    assert done.code == 0 and "sha256 checked" in done.err, done.err
    _is_whole(team, cancelled, "cut")
    again = relay.received - sum(path.stat().st_size for path in team.folder(cancelled).adapter.iterdir())
    measured(
        f"{cuts} cuts in {big / MIB:.0f} MiB: {again / MIB:.2f} MiB more came, frames, TLS and other calls included"
    )
    assert again < cuts * MIB + big // 100


def test_a_pull_outlives_the_api_server(team: Team, cancelled: str, big: int) -> None:
    part = team.root / "away" / f".{cancelled}.part" / "big.bin"
    with ThreadPoolExecutor() as pool:
        pulled = pool.submit(team.kctl, "pull", cancelled, "--to", "away")
        until_there(part, big // 10)
        with dead_api_server(seconds=5):
            assert part.stat().st_size < big, "it was not there yet"
        done = pulled.result()
    assert done.code == 0 and "sha256 checked" in done.err, done.err
    _is_whole(team, cancelled, "away")


def test_resumed_and_the_attempt_before(team: Team, cancelled: str) -> None:
    step = max(team.losses(cancelled))
    resumed = team.ok("submit", CONFIG)
    assert f"run {cancelled} has ended (Cancelled): it is created again and resumes" in resumed.err
    team.until_step(cancelled, step + 2)
    previous = team.ok("logs", cancelled, "--previous")
    assert "from the runs volume: attempt-01-node-0.log, attempt-01-node-1.log" in previous.err
    kept = _kept(team, cancelled, prefix="attempt-01-node-{}")
    assert previous.out.splitlines() == kept[0] + kept[1]
    assert f"attempt 2 of {cancelled}, newest checkpoint: step {step}" in team.ok("logs", cancelled).out
    team.ok("cancel", cancelled)


def _folder(team: Team, run: str) -> RunFolder:
    """A run folder as its pods would have left it."""
    folder = team.folder(run)
    folder.adapter.mkdir(parents=True, exist_ok=True)
    for path in (folder.root, folder.adapter):
        os.chown(path, UID, UID)
    return folder


def test_outputs_are_deleted_of_that_run_alone(team: Team, cancelled: str) -> None:
    gone, other = (team.config(name, data=MISSING) for name in ("gone", "other"))
    team.profile("nowhere", node_selector={"kctl.dev/test": "absent"})
    waiting = team.config("waiting", profile="nowhere")
    for run in (gone, other, waiting):
        team.ok("submit", run.rpartition("-")[0])
        _folder(team, run)
    assert [team.kctl("wait", run).code for run in (gone, other)] == [3, 3]
    asked = team.kctl("delete", gone, "--outputs")
    assert asked.code == 2 and "add --yes" in asked.err and team.folder(gone).root.exists()
    deleted = team.ok("delete", gone, "--outputs", "--yes")
    assert f"{gone} deleted with its outputs" in deleted.out
    assert not team.folder(gone).root.exists() and team.folder(other).root.exists()
    assert team.kctl("status", gone).code == 4
    labels = ("-l", f"kctl.dev/run={gone}")
    left = ("get", "pytorchjobs,pods,configmaps", *labels, "-o", "name")
    team.until(lambda: team.shell.kubectl(*left) == "", f"nothing is left of {gone}", 30)
    kept = team.ok("delete", other)
    assert f"{other} deleted\n" in kept.out and team.folder(other).root.exists(), "only with --outputs"
    pruned = team.ok("prune", "--outputs", "--yes")
    assert f"{cancelled} deleted with its outputs" in pruned.out and waiting not in pruned.out
    assert not team.folder(cancelled).root.exists()
    assert team.folder(other).root.exists() and team.folder(waiting).root.exists()
    assert [one["run"] for one in json.loads(team.ok("list", "-o", "json").out)] == [waiting]
