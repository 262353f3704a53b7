"""An estimate as data."""

from typing import Any

from kctl.plan.advice import advice
from kctl.plan.estimate import Estimate, Time
from kctl.plan.memory import Memory
from kctl.plan.page import on


def as_data(found: Estimate) -> dict[str, Any]:
    """Everything in numbers: bytes, seconds, counts."""
    question, memory, time, lengths = found.question, found.memory, found.time, found.question.lengths
    return {
        "run": question.loaded.config.run,
        "machine": on(found),
        "ranks": question.ranks,
        "model": {"parameters": found.total, "source": question.model},
        "trained": found.trained,
        "published_bytes": round(found.published),
        "checkpoint_bytes": round(found.checkpoint),
        "data": {
            "items": lengths.items,
            "held_out": lengths.held_out,
            "mean_tokens": round(lengths.mean, 1),
            "longest_tokens": max(lengths.tokens),
            "source": lengths.source,
            "sure": lengths.sure,
        },
        "steps": found.steps,
        "steps_per_epoch": found.steps_an_epoch,
        "memory": None if memory is None else _memory(memory),
        "time": None if time is None else _time(time),
        "advice": advice(found),
    }


def _memory(memory: Memory) -> dict[str, Any]:
    return {
        "fits": memory.fits,
        "needed_bytes": round(memory.needed),
        "gpu_bytes": round(memory.total),
        "parts_bytes": {name: round(value) for name, value in memory.parts.items()},
        "row_tokens": memory.row,
        "recomputed_layers": memory.recomputed,
        "sure": memory.sure,
    }


def _time(time: Time) -> dict[str, Any]:
    return {
        "step_seconds": round(time.step, 4),
        "tokens_per_s": round(time.tokens_per_s),
        "epoch_seconds": None if time.epoch is None else round(time.epoch),
        "whole_seconds": None if time.whole is None else round(time.whole),
        "gpu_hours": None if time.gpu_hours is None else round(time.gpu_hours, 2),
        "cost": None if time.cost is None else round(time.cost, 2),
        "sure": time.source,
    }
