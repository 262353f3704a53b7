"""What kctl and the trainer agree on besides the configuration: exit codes, paths, environment, labels.

Neither side spells one of these out a second time. Imports nothing but the standard library.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path

MAX_RUN_NAME = 52
"""Longest run name: a pod is `<run>-worker-99`, 52 + 10 = 62 <= 63, the limit of a DNS label."""


class ExitCode(IntEnum):
    """How a pod ends. Below 128 is permanent (restartPolicy ExitCode fails the job), the rest is retried."""

    SUCCEEDED = 0
    CONFIG = 2
    DATA = 3
    OUT_OF_MEMORY = 4
    DIVERGED = 5
    CHECKPOINT = 6
    RUNS_FOLDER = 7
    ATTEMPTS = 8
    TIME_LIMIT = 9
    OWNERSHIP_LOST = 138
    PREEMPTED = 143
    PEER_LOST = 150
    DEVICE = 151
    UNKNOWN = 152
    RENDEZVOUS = 153
    HANGING = 154

    @property
    def permanent(self) -> bool:
        """True where another attempt cannot help."""
        return 0 < self < 128


class Phase(StrEnum):
    """Where a run is, as people see it (glossary: phase, not state)."""

    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def finished(self) -> bool:
        """True where nothing more happens without a person."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


# Environment that kctl sets and the trainer reads. Secrets come by reference beside these.
ENV_CONFIG = "TRAINER_CONFIG"
"""Path of the resolved run config (JSON)."""
ENV_MODELS = "TRAINER_MODELS"
ENV_DATA = "TRAINER_DATA"
ENV_RUNS = "TRAINER_RUNS"
"""Roots of the three volumes; local runs map them to folders."""
ENV_POD_UID = "TRAINER_POD_UID"
ENV_POD_NAME = "TRAINER_POD_NAME"
ENV_GRACE_SECONDS = "TRAINER_GRACE_SECONDS"
"""terminationGracePeriodSeconds of the pod: what is left between SIGTERM and SIGKILL."""
ENV_MAX_HOURS = "TRAINER_MAX_HOURS"
"""Hours after which the run saves and ends with TIME_LIMIT; unset or empty: no limit."""
ENV_TERMINATION_LOG = "TRAINER_TERMINATION_LOG"
"""File of the termination message; Kubernetes' default is /dev/termination-log."""
ENV_STOP_WISH = "TRAINER_STOP_WISH"
"""File with the pod's annotation ANNOTATION_STOP; no such file, or an empty one: nobody wishes this pod to stop."""

# Environment that the launcher sets and the ranks read, on one node.
ENV_RUN_FOLDER = "TRAINER_RUN_FOLDER"
"""Absolute path of the run's folder on the runs volume."""
ENV_OWNER = "TRAINER_OWNER"
"""JSON {"pod_uid", "attempt"}: rank 0 compares it with owner.json before every rename."""
ENV_PREPARED = "TRAINER_PREPARED"
"""Node-local folder written by trainer.dataset.prepare."""
ENV_STOP_FILE = "TRAINER_STOP_FILE"
"""Node-local file; once it exists the ranks save at the next step's end. Content: preempted or time-limit."""
ENV_OUTCOMES = "TRAINER_OUTCOMES"
"""Node-local folder: rank-<r>.json of each rank that ended with something to say, progress.json of rank 0."""
ENV_PLAN = "TRAINER_PLAN"
"""Level of the memory plan: 0 at first, 1 after the ranks ran out of GPU memory."""

CONFIG_PATH = "/etc/kctl/config.json"
STOP_WISH_PATH = "/etc/kctl-pod/stop"
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LIMIT = 3072
"""Bytes of a termination message (Kubernetes keeps 4096)."""
MODELS_MOUNT, DATA_MOUNT, RUNS_MOUNT = "/models", "/data", "/runs"
_MOUNTS = {ENV_MODELS: MODELS_MOUNT, ENV_DATA: DATA_MOUNT, ENV_RUNS: RUNS_MOUNT}


def mounted(variable: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Root of the volume that `variable` (ENV_MODELS, ENV_DATA, ENV_RUNS) names: a local run maps folders."""
    return Path(environ.get(variable) or _MOUNTS[variable])


CONTAINER = "pytorch"
"""The operator's webhook accepts no other container name."""
MASTER_PORT = 23456
READER_PORT = 8479
"""Where trainer.reader listens in its pod, on 127.0.0.1."""

LABEL_RUN = "kctl.dev/run"
LABEL_CONFIG = "kctl.dev/config"
ANNOTATION_MANIFEST = "kctl.dev/manifest-sha256"
ANNOTATION_CANCELLED = "kctl.dev/cancelled"
ANNOTATION_STOP = "kctl.dev/stop"
"""On a pod, with any value: as RunFolder.stop. The kubelet passes it on within a minute or so; it goes with the pod."""
TAG_PREFIX = "tag.kctl.dev/"
"""Of an annotation on a PyTorchJob for each of the run's tags; its value is the time of tagging."""
LABEL_JOB_NAME = "training.kubeflow.org/job-name"
LABEL_REPLICA_TYPE = "training.kubeflow.org/replica-type"
LABEL_REPLICA_INDEX = "training.kubeflow.org/replica-index"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run on the runs volume. Every file there appears by rename, complete or not at all."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def owner(self) -> Path:
        return self.root / "owner.json"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def stop(self) -> Path:
        """Whoever puts a file here asks the run to save, and to start again elsewhere; the next attempt removes it."""
        return self.root / "stop"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.root / "samples.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "data-report.json"

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    @property
    def picture(self) -> Path:
        return self.root / "loss.png"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def compiled(self) -> Path:
        return self.root / "compiled"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def adapter_last(self) -> Path:
        return self.root / "adapter-last"

    @property
    def merged(self) -> Path:
        return self.root / "merged"

    @property
    def merged_last(self) -> Path:
        return self.root / "merged-last"

    @property
    def exported(self) -> Path:
        return self.root / "exported"

    @property
    def exported_last(self) -> Path:
        return self.root / "exported-last"

    @property
    def generated(self) -> Path:
        return self.root / "generated"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    def log(self, attempt: int, node: int) -> Path:
        """Everything that all ranks of one node printed in one attempt (attempts count from 1)."""
        return self.logs / f"attempt-{attempt:02d}-node-{node}.log"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"


MANIFEST = "MANIFEST.json"
"""In every adapter folder: {"files": {name: {"size": bytes, "sha256": hex}}}."""

REPORT_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
"""
"""How a report begins: whatever stands after the policy, a browser runs no script of it and fetches nothing."""
