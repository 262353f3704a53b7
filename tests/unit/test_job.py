"""What a run looks like, from the shapes that the API and the trainer really write."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.run.job import Message, Step, job_view, parse_message, parse_step_line
from trainer.schema.contract import ANNOTATION_CANCELLED, ANNOTATION_MANIFEST, LABEL_CONFIG, LABEL_REPLICA_INDEX, Phase

numbers = st.floats(allow_nan=False, width=32)


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
    view = job_view(manifest, pods)
    assert view.phase is phase
    assert view.settled == (phase.finished and not any(one["status"]["phase"] == "Running" for one in pods))
    assert (view.config, view.manifest_sha256, view.grace_seconds, view.uid) == ("demo", "abc", 300, "u")


def test_the_permanent_code_explains_a_failure_not_the_peer_that_was_lost() -> None:
    lost = json.dumps({"code": 150, "sentence": "a peer was lost", "step": 9})
    cause = json.dumps({"code": 4, "sentence": "out of GPU memory", "step": 10, "steps": 100, "loss": 2.5})
    view = job_view(job("Failed"), [pod(0, "Failed", 150, lost), pod(1, "Failed", 4, cause)])
    assert (view.code, view.sentence, view.step, view.steps, view.loss) == (4, "out of GPU memory", 10, 100, 2.5)


def test_a_failure_that_no_pod_explains_has_the_operators_words() -> None:
    assert job_view(job("Failed"), []).sentence == "the job is failed"
    assert job_view(job("Failed"), [pod(0, "Failed", 143)]).sentence == "the job is failed"
    assert (
        job_view(job("Failed"), [pod(0, "Failed", 3)]).sentence
        == "pod demo-01234567-worker-0 ended with code 3 (Error)"
    )
    assert job_view(job(), [pod(0, "Pending", reason="ImagePullBackOff")]).pods[0].reason == "ImagePullBackOff"


def test_a_step_line_as_the_trainer_writes_it() -> None:
    text = "step=100/1000 loss=1.2345 lr=2.0e-04 grad_norm=0.81 tokens_per_s=5210 mem_gib=31.2 eta_s=5400"
    assert parse_step_line(text) == Step(100, 1000, 1.2345, 5400.0)
    assert parse_step_line("[rank0]: " + text) == parse_step_line(text)
    assert parse_step_line("step=1/2 loss=nan lr=1") is not None
    for other in ("", "last_step=1/2 loss=1", "step=1/2 lr=1", "step=1 loss=2", "step=1/2 loss=one", "eval loss=2.0"):
        assert parse_step_line(other) is None


@given(st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1), numbers, st.lists(numbers, min_size=5, max_size=5))
def test_every_step_line_is_read_back(step: int, steps: int, loss: float, rest: list[float]) -> None:
    names = ("lr", "grad_norm", "tokens_per_s", "mem_gib", "eta_s")
    tail = " ".join(f"{name}={value:.6e}" for name, value in zip(names, rest, strict=True))
    read = parse_step_line(f"step={step}/{steps} loss={loss:.4f} {tail}")
    assert read is not None and (read.step, read.steps) == (step, steps)
    if math.isfinite(loss):
        assert read.loss == float(f"{loss:.4f}")
    if math.isfinite(rest[-1]):
        assert read.eta_s == float(f"{rest[-1]:.6e}")


@given(st.text() | st.text(alphabet="step=/0123456789 losn.-e"))
def test_any_line_is_read_without_an_error(text: str) -> None:
    parse_step_line(text)
    parse_step_line("step=1/2 loss=" + text)


keys = st.sampled_from(list(Message.__dataclass_fields__)) | st.text(max_size=5)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = leaves | st.dictionaries(keys, leaves | st.lists(leaves, max_size=2), max_size=6)


@given(json_values)
def test_any_json_message_is_read_into_right_types(value: Any) -> None:
    read = parse_message(json.dumps(value))
    for name, kind in (("step", int), ("steps", int), ("code", int), ("loss", float), ("sentence", str)):
        found = getattr(read, name)
        assert found is None or type(found) is kind


@given(st.text())
def test_any_text_message_is_read(text: str) -> None:
    sentence = parse_message(text).sentence
    assert sentence is None or sentence


def test_deep_nesting_is_a_sentence() -> None:
    assert parse_message("[" * 100_000).sentence
