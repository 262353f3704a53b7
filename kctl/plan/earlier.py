"""What runs of this machine showed: how long their items were, how fast they were, what memory they took."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kctl.backends.local.files import LocalFiles
from kctl.backends.local.store import state_root
from kctl.config.run_config import LoadedConfig
from kctl.errors import KctlError
from kctl.run.folder import read_results
from trainer.dataset.report import Report
from trainer.errors import ConfigError
from trainer.schema.config import TrainConfig
from trainer.schema.contract import RunFolder
from trainer.schema.loading import read_run_file


@dataclass(frozen=True)
class Measured:
    """A run's own figures."""

    run: str
    tokens_per_s: float
    """Over all ranks, the median of its steps."""
    mem_gib: float
    """The most of rank 0: reserved of a GPU's, or the process's own."""


@dataclass(frozen=True)
class Earlier:
    """What was found: the data's report of the newest run on the same data; figures of the newest like this one."""

    report: tuple[str, Report] | None
    measured: Measured | None


def earlier(loaded: LoadedConfig) -> Earlier:
    """Of runs in .kctl. Whatever cannot be read is as if it were not there."""
    train, report, measured = loaded.config.train, None, None
    for folder, other, shown in _runs(loaded):
        if report is None and other.data == train.data and other.model == train.model:
            report = _report(folder)
        if measured is None and _alike(train, other):
            measured = _measured(folder, shown, loaded)
    return Earlier(report, measured)


def _runs(loaded: LoadedConfig) -> Iterator[tuple[RunFolder, TrainConfig, dict[str, Any]]]:
    """Run folders on the local runs volume, the newest first, with their config and result."""
    claim = loaded.profile.volumes.runs
    root = state_root() / claim.claim / (claim.sub_path or "")
    found = sorted(root.glob("*/config.json"), key=lambda path: (-path.stat().st_mtime, path))
    for path in found:
        folder = RunFolder(path.parent)
        try:
            result = json.loads(folder.result.read_text(encoding="utf-8")) if folder.result.is_file() else {}
            yield folder, read_run_file(path).train, result if isinstance(result, dict) else {}
        except (ConfigError, OSError, ValueError):
            continue


def _alike(train: TrainConfig, other: TrainConfig) -> bool:
    """Steps of the same work: model, method, what is trained, precision, kernels."""
    return all(getattr(train, name) == getattr(other, name) for name in ("model", "method", "lora", "precision")) and (
        train.ops.kernels,
        train.ops.offload,
    ) == (other.ops.kernels, other.ops.offload)


def _report(folder: RunFolder) -> tuple[str, Report] | None:
    try:
        return folder.root.name, Report.from_json(folder.report.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(folder: RunFolder, result: dict[str, Any], loaded: LoadedConfig) -> Measured | None:
    """Where as many ranks ran, on GPUs as this run would or on CPUs as this run would."""
    if result.get("ranks") != loaded.config.cluster.ranks:
        return None
    try:
        shown = read_results(LocalFiles(folder.root), folder.root.name)
    except (KctlError, OSError):
        return None
    if shown.tokens_per_s is None or shown.on_gpu != (loaded.config.cluster.gpus_per_node > 0):
        return None
    return Measured(shown.run, shown.tokens_per_s, shown.mem_gib or 0.0)
