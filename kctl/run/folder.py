"""What a run's folder on the runs volume says of the run: its config, its best adapter, its losses, its answers.

It is written by the run, and by whoever can write there: what is missing, half written or no sense is left out.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kctl.backends.protocol import RunFiles
from kctl.errors import Damaged, NotFound
from kctl.run.kept import lines_of
from kctl.run.pull import Entry, parse_manifest
from trainer.schema.contract import MANIFEST, RunFolder
from trainer.schema.messages import number, whole

_HERE = RunFolder(Path())
_LIMIT = 4 << 20
"""Bytes of a JSON file; a manifest of a whole model has some ten thousand."""


@dataclass(frozen=True)
class AdapterView:
    """A run's best adapter, and what it was trained on and from. None: not known."""

    run: str
    base: str | None
    """The base model: its folder below the models volume, or its hub id."""
    base_digest: str | None
    method: str | None
    rank: int | None
    expert_rank: int | None
    data: str | None
    """Path below the data volume."""
    data_digest: str | None
    """sha256 over all items, trained and held out."""
    step: int | None
    loss: float | None
    """Held out, in nats per label."""
    size: int
    """Bytes of all its files."""
    sha256: str
    """Of MANIFEST.json, which has size and sha256 of every file."""
    files: tuple[Entry, ...]
    tags: tuple[str, ...] = ()
    """Of the run's job; the folder knows none."""


@dataclass(frozen=True)
class Answer:
    """What the adapter said last to one fixed prompt."""

    item: str
    step: int
    reference: str
    answer: str


@dataclass(frozen=True)
class Results:
    """How a run went so far."""

    run: str
    train: dict[str, Any]
    """The config's section, spelled out."""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    """Of the newest step that was logged."""
    tokens_per_s: float | None = None
    """Median of what was logged after the first step, which compiles and warms up."""
    mem_gib: float | None = None
    """Most that was logged."""
    on_gpu: bool = False
    """A GPU's use was logged."""
    seconds: float | None = None
    """Of training, evaluations included."""
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step -> held-out losses by name; step 0 is before the first update."""
    answers: tuple[Answer, ...] = ()

    @property
    def best(self) -> tuple[int, dict[str, float]] | None:
        """(step, losses) of the lowest held-out loss after the first update: those of the published adapter."""
        held = {step: losses for step, losses in self.evaluations.items() if step > 0 and "loss" in losses}
        step = min(held, key=lambda at: (held[at]["loss"], at), default=None)
        return None if step is None else (step, held[step])


def folder_of(folders: Mapping[str, RunFiles], run: str) -> RunFiles:
    """The run's among those of Backend.folders. NotFound where its job has none."""
    if run not in folders:
        raise NotFound(f"run {run} mounts no runs volume: kctl did not render it, and its folder is not known")
    return folders[run]


def read_adapter(files: RunFiles, run: str) -> AdapterView | None:
    """The run's best adapter; None where it has none yet. Damaged where its manifest is none."""
    import hashlib

    source = f"{_HERE.adapter.name}/{MANIFEST}"
    data = _bytes(files, source)
    if data is None:
        return None
    entries = parse_manifest(data, f"{run}: {source}")
    manifest = _parsed(data)
    train = read_train(files)
    lora = _map(train.get("lora"))
    losses = _map(manifest.get("losses")) or _map(_object(files, _HERE.result.name).get("after"))
    return AdapterView(
        run=run,
        base=base_of(train),
        base_digest=_text(manifest.get("base")),
        method=_text(train.get("method")),
        rank=whole(lora.get("rank")),
        expert_rank=whole(lora.get("expert_rank")),
        data=_text(_map(train.get("data")).get("path")),
        data_digest=_text(manifest.get("data")),
        step=whole(manifest.get("step")),
        loss=number(losses.get("loss")),
        size=sum(entry.size for entry in entries),
        sha256=hashlib.sha256(data).hexdigest(),
        files=tuple(entries),
    )


def read_train(files: RunFiles) -> dict[str, Any]:
    """The config's `train`, {} where there is none."""
    return _map(_object(files, _HERE.config.name).get("train"))


def base_of(train: Mapping[str, Any]) -> str | None:
    """The base model as a person names it."""
    model = _map(train.get("model"))
    return _text(model.get("path")) or _text(_map(model.get("hub")).get("id"))


def read_results(files: RunFiles, run: str) -> Results:
    """How the run went; empty where it has not begun."""
    import statistics

    evaluations: dict[int, dict[str, float]] = {}
    rates: list[float] = []
    step, steps, loss, memory, seconds, late, on_gpu = 0, 0, None, None, None, 0.0, False
    for record in _records(files, _HERE.metrics.name):
        at = int(record["step"])
        judged = record.get("evaluation")
        if isinstance(judged, dict):
            evaluations[at] = {str(name): found for name, one in judged.items() if (found := number(one)) is not None}
            late = number(record.get("seconds")) or 0.0
            continue
        step, steps, late = max(step, at), whole(record.get("steps")) or steps, 0.0
        loss = number(record.get("loss"))
        memory = max(filter(None, (memory, number(record.get("mem_gib")))), default=None)
        seconds = number(record.get("seconds")) or seconds
        rates += filter(None, [number(record.get("tokens_per_s"))])
        on_gpu = on_gpu or "gpu_util" in record
    return Results(
        run=run,
        train=read_train(files),
        step=step,
        steps=steps,
        loss=loss,
        tokens_per_s=statistics.median(rates[1:]) if rates[1:] else None,
        mem_gib=memory,
        on_gpu=on_gpu,
        seconds=number(_object(files, _HERE.result.name).get("seconds")) if seconds is None else seconds + late,
        evaluations=dict(sorted(evaluations.items())),
        answers=_answers(files),
    )


def _answers(files: RunFiles) -> tuple[Answer, ...]:
    found: dict[str, Answer] = {}
    for record in _records(files, _HERE.samples.name):
        item, answer = _text(record.get("item")), record.get("answer")
        if item and isinstance(answer, str):
            found[item] = Answer(item, int(record["step"]), _text(record.get("reference")) or "", answer)
    return tuple(found.values())


def _records(files: RunFiles, path: str) -> Iterator[dict[str, Any]]:
    """JSON objects with a step, line by line; the last line may still be in the writing."""
    try:
        for line in lines_of(files, path):
            record = _parsed(line)
            if whole(record.get("step")) is not None:
                yield record
    except NotFound:
        return


def _bytes(files: RunFiles, path: str) -> bytes | None:
    data = b""
    try:
        for chunk in files.read(path):
            data += chunk
            if len(data) > _LIMIT:
                raise Damaged(f"{path}: more than {_LIMIT} bytes: not written by a run; look at it on the volume")
    except NotFound:
        return None
    return data


def _object(files: RunFiles, path: str) -> dict[str, Any]:
    return _parsed(_bytes(files, path) or b"")


def _parsed(data: bytes | str) -> dict[str, Any]:
    try:
        return _map(json.loads(data))
    except (ValueError, RecursionError):
        return {}


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
