"""kctl explain through HTTP: which questions it asks, what it may not see, how long it takes among 200 runs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kctl.cli import run as kctl
from tests.cli.api_server import ApiServer, serving
from tests.unit.explain_world import POD, RUN, STEP, ago, event, job, node, pod
from trainer.schema.contract import LABEL_JOB_NAME, LABEL_RUN

JOBS = "/apis/kubeflow.org/v1/namespaces/team/pytorchjobs"
CORE = "/api/v1/namespaces/team"
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with serving() as made:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.setenv("COLUMNS", "200")
        yield made


def there(server: ApiServer, one: dict[str, Any], *pods: dict[str, Any], events: tuple[Any, ...] = ()) -> None:
    """A run with its pods and events."""
    for each in pods:
        each["metadata"].setdefault("labels", {})[LABEL_JOB_NAME] = RUN
    server.answers |= {f"{JOBS}/{RUN}": one, f"{CORE}/pods": list(pods), f"{CORE}/events": list(events)}
    server.answers |= {f"{CORE}/pods/{each['metadata']['name']}": each for each in pods}


def unplaced(message: str) -> dict[str, Any]:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert kctl(["explain", RUN, "-o", "json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_the_nodes_tell_how_large_they_are(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    there(server, job("Created"), unplaced(NO_GPU))
    server.answers["/api/v1/nodes"] = [node(gpu="4")]
    assert kctl(["explain", RUN]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"Run:      {RUN} is Pending",
        "Cause:    no node is that large: a pod asks for 8 nvidia.com/gpu, the largest node has 4 [resource-too-large]",
        f"Evidence: pod {POD}: Unschedulable: {NO_GPU}",
        "          nodes: 1, the largest has 4 nvidia.com/gpu",
        "Next:     submit with fewer cluster.gpus_per_node, or less cpu and memory in the cluster profile",
    ]


def test_status_of_a_run_that_waits_names_it(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    there(server, job("Created"), unplaced(NO_GPU))
    assert kctl(["status", RUN]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Next:     kctl explain {RUN}"


def test_what_may_not_be_seen_is_said_and_holds_nothing_up(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    there(server, job("Created"), unplaced(NO_GPU))
    server.answers["/api/v1/nodes"] = (
        403,
        'nodes is forbidden: User "ann" cannot list resource "nodes" in API group ""',
    )
    server.answers[f"{CORE}/events"] = (403, 'events is forbidden: User "ann" cannot list resource "events"')
    value = told(capsys)
    assert [one["name"] for one in value["causes"]] == ["resource-short"]
    assert [one.partition(":")[0] for one in value["unseen"]] == ["events", "nodes"]
    assert "ann has no right to list nodes" in value["unseen"][1]


def test_only_what_can_matter_is_asked(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    well = [{"type": "Ready", "status": "True"}]
    state = {"running": {"startedAt": ago(4000)}}
    there(server, job("Created", "Running"), pod("Running", state, conditions=well, spec={"nodeName": "n1"}))
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime())
    server.answers[f"{CORE}/pods/{POD}/log"] = f"{stamp} {STEP}\n"
    assert [one["name"] for one in told(capsys)["causes"]] == ["training"]
    paths = sorted({one.partition("?")[0].removeprefix(f"GET {CORE}") for one in server.requests})
    assert paths == ["/events", "/pods", f"/pods/{POD}/log", f"GET {JOBS}/{RUN}"]


def test_of_several_nodes_the_log_s_first_line_counts_however_long_it_is(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"running": {"startedAt": ago(4000)}}
    worker = pod("Running", state)
    worker["metadata"]["name"] = f"{RUN}-worker-0"
    there(server, job("Created", "Running", nodes=2), pod("Running", state), worker)
    start, now = ago(3000), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    first = f"{start} torch 2.13.0; 16 ranks on NVIDIA H100 80GB HBM3 over NET/Socket; packed rows\n"
    server.answers[f"{CORE}/pods/{POD}/log"] = first + f"{start} {STEP}\n" * 5000 + f"{now} {STEP}\n" * 250
    found = {one["name"]: one for one in told(capsys)["causes"]}
    assert "over NET/Socket" in found["slow-network"]["evidence"][0] and "training" not in found


def test_a_claim_and_its_events(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    why = 'storageclass.storage.k8s.io "fast" not found'
    now = {"lastTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    said = event("ProvisioningFailed", why, "PersistentVolumeClaim", "data") | now
    there(server, job("Created"), unplaced("pod has unbound immediate PersistentVolumeClaims."), events=(said,))
    bound = [{"metadata": {"name": name}, "status": {"phase": "Bound"}} for name in ("models", "runs")]
    server.answers[f"{CORE}/persistentvolumeclaims"] = [*bound, {"metadata": {"name": "data"}, "status": {}}]
    (first,) = told(capsys)["causes"]
    assert first["name"] == "claim-class-absent" and "kubectl --context test get storageclass" in first["next"]


def test_kueue(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    there(server, job("Created", "Suspended", labels={"kueue.x-k8s.io/queue-name": "gpu"}, runPolicy={"suspend": True}))
    server.answers["/apis/kueue.x-k8s.io"] = {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}
    reserved = {"type": "QuotaReserved", "status": "False", "reason": "Inadmissible"}
    reserved["message"] = "LocalQueue gpu doesn't exist"
    metadata = {"name": "w", "labels": {"kueue.x-k8s.io/job-uid": "u-job"}}
    workload = {"metadata": metadata, "status": {"conditions": [reserved]}}
    server.answers["/apis/kueue.x-k8s.io/v1beta2/namespaces/team/workloads"] = [workload]
    assert [one["name"] for one in told(capsys)["causes"]] == ["queue-absent"]


def test_among_200_runs_and_1000_pods_it_takes_less_than_a_second(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by a prefix, which reads the list of all runs; its own pods, and events of four of them."""
    many = [json.loads(json.dumps(job("Created"))) for _ in range(200)]
    for number, one in enumerate(many):
        one["metadata"] |= {"name": f"run-{number:08x}", "labels": {LABEL_RUN: f"run-{number:08x}"}}
    mine = job("Created", nodes=64, labels={LABEL_RUN: RUN})
    pods = [unplaced(NO_GPU) for _ in range(1000)]
    for number, each in enumerate(pods):
        run = RUN if number < 64 else many[number % 200]["metadata"]["name"]
        each["metadata"] = {"name": f"{run}-worker-{number}", "uid": str(number), "labels": {LABEL_JOB_NAME: run}}
    server.answers |= {JOBS: [*many, mine], f"{JOBS}/{RUN}": mine, f"{CORE}/pods": pods, f"{CORE}/events": []}
    server.answers["/api/v1/nodes"] = [node(f"n{number}", gpu="8") for number in range(100)]
    started = time.process_time()  # of the server in it, too; other tests may run beside this one
    assert kctl(["explain", "demo-1a"]) == 0
    assert time.process_time() - started < 1.0
    assert "[resource-busy]" in capsys.readouterr().out
    assert len(server.requests) < 15


def test_a_run_that_is_not_there(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers[JOBS] = []
    assert kctl(["explain", "gone-12345678"]) == 4
    assert "no run 'gone-12345678'" in capsys.readouterr().err
