"""What a run looks like, from the shapes that the API and the trainer really write."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kctl.backends.run_view import newest_warning, run_view
from trainer.schema.contract import ANNOTATION_CANCELLED, ANNOTATION_MANIFEST, LABEL_CONFIG, LABEL_REPLICA_INDEX, Phase


def job(*conditions: str, suspend: bool = False, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "demo-01234567",
            "uid": "u",
            "creationTimestamp": "2026-11-23T10:00:00Z",
            "labels": {LABEL_CONFIG: "demo"},
            "annotations": {ANNOTATION_MANIFEST: "abc", **(annotations or {})},
        },
        "spec": {
            "runPolicy": {"suspend": True} if suspend else {},
            "pytorchReplicaSpecs": {"Master": {"template": {"spec": {"terminationGracePeriodSeconds": 300}}}},
        },
        "status": {
            "conditions": [
                {"type": kind, "status": "True", "message": f"the job is {kind.lower()}"} for kind in conditions
            ]
        },
    }


def pod(index: int, phase: str, code: int | None = None, message: str = "", reason: str = "") -> dict[str, Any]:
    state: dict[str, Any] = {"waiting": {"reason": reason}} if reason else {"running": {}}
    if code is not None:
        state = {"terminated": {"exitCode": code, "message": message, "reason": "Error" if code else "Completed"}}
    statuses = [{"name": "istio", "state": {}}, {"name": "pytorch", "state": state}]
    return {
        "metadata": {"name": f"demo-01234567-worker-{index}", "labels": {LABEL_REPLICA_INDEX: str(index)}},
        "status": {"phase": phase, "containerStatuses": statuses},
    }


RECORDED = {path.stem: path for path in (Path(__file__).parents[1] / "cluster" / "statuses").glob("*.json")}
"""Jobs as the real operator left them, in each state."""
PHASES = {"none": "Pending", "created": "Pending", "suspended": "Queued", "resumed": "Running"}


@pytest.mark.parametrize("state", sorted(RECORDED))
def test_phase_of_what_the_operator_wrote(state: str) -> None:
    first = state.partition("-")[0]
    pods = [pod(0, "Running")] if first in ("running", "resumed") else []
    view = run_view(json.loads(RECORDED[state].read_text()), pods)
    assert view.phase == PHASES.get(first, first.capitalize())
    assert bool(view.ended) is view.phase.finished


@pytest.mark.parametrize(
    ("manifest", "pods", "phase"),
    [
        (job(), [], Phase.PENDING),
        (job("Created", "Running"), [pod(0, "Running"), pod(1, "Pending")], Phase.PENDING),
        (job("Created", "Running"), [pod(0, "Running"), pod(1, "Running")], Phase.RUNNING),
        (job("Created", "Running"), [pod(0, "Running"), pod(1, "Succeeded", 0)], Phase.RUNNING),
        (job("Created", "Restarting"), [pod(0, "Running"), pod(1, "Pending")], Phase.RESTARTING),
        (job("Created", "Running"), [pod(0, "Running"), pod(1, "Failed", 143)], Phase.RESTARTING),
        (job("Created", "Suspended", suspend=True), [], Phase.QUEUED),
        (job(suspend=True, annotations={ANNOTATION_CANCELLED: "now"}), [pod(0, "Running")], Phase.CANCELLED),
        (job("Succeeded", suspend=True, annotations={ANNOTATION_CANCELLED: "now"}), [], Phase.SUCCEEDED),
        (job("Created", "Failed"), [pod(0, "Failed", 3)], Phase.FAILED),
    ],
)
def test_phase(manifest: dict[str, Any], pods: list[dict[str, Any]], phase: Phase) -> None:
    view = run_view(manifest, pods)
    assert view.phase is phase
    assert view.settled == (phase.finished and not any(one["status"]["phase"] == "Running" for one in pods))
    assert (view.config, view.manifest_sha256, view.grace_seconds, view.uid) == ("demo", "abc", 300, "u")


def test_the_permanent_code_explains_a_failure_not_the_peer_that_was_lost() -> None:
    lost = json.dumps({"code": 150, "sentence": "a peer was lost", "step": 9})
    cause = json.dumps({"code": 4, "sentence": "out of GPU memory", "step": 10, "steps": 100, "loss": 2.5})
    view = run_view(job("Failed"), [pod(0, "Failed", 150, lost), pod(1, "Failed", 4, cause)])
    assert (view.code, view.sentence, view.step, view.steps, view.loss) == (4, "out of GPU memory", 10, 100, 2.5)


def test_a_failure_that_no_pod_explains_has_the_operators_words() -> None:
    assert run_view(job("Failed"), []).sentence == "the job is failed"
    assert run_view(job("Failed"), [pod(0, "Failed", 143)]).sentence == "the job is failed"
    assert (
        run_view(job("Failed"), [pod(0, "Failed", 3)]).sentence
        == "pod demo-01234567-worker-0 ended with code 3 (Error)"
    )
    assert run_view(job(), [pod(0, "Pending", reason="ImagePullBackOff")]).pods[0].reason == "ImagePullBackOff"


def test_a_pod_that_waits_says_for_what() -> None:
    pulling = run_view(job(), [pod(0, "Pending", reason="ImagePullBackOff")])
    assert pulling.sentence == "pod demo-01234567-worker-0 waits: ImagePullBackOff"
    unplaced = pod(0, "Pending")
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    unplaced["status"] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "message": message}],
    }
    assert run_view(job(), [unplaced]).sentence == f"pod demo-01234567-worker-0 waits: {message}"
    assert run_view(job("Running"), [pod(0, "Running")]).sentence == ""


def test_no_view_shows_a_secret_that_others_say() -> None:
    secret = "hf_" + "x" * 24
    failed = job("Failed")
    failed["status"]["conditions"][0]["message"] = f"cannot pull with {secret}"
    views = [
        run_view(job("Running"), [pod(0, "Pending", reason=f"denied: {secret}")]),
        run_view(job("Failed"), [pod(0, "Failed", 1, f"no model for {secret}"), pod(1, "Failed", 2, "{}")]),
        run_view(failed, []),
    ]
    assert all(view.sentence and "[secret]" in view.sentence and secret not in str(asdict(view)) for view in views)
    assert newest_warning([{"message": f"WANDB_API_KEY={'0' * 40} is refused"}]) == "WANDB_API_KEY=[secret] is refused"
