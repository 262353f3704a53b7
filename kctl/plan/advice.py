"""What would be better: other cards, fewer of them, settings; each with what it changes. And the least that fits."""

from collections.abc import Iterator
from dataclasses import replace

from kctl.plan.estimate import Estimate, estimate
from kctl.plan.question import Question
from trainer.schema.gpus import GPUS, Gpu, Machine

COUNTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (16, 8))
"""Nodes and GPUs of each that are tried, the fewest first."""


def where(machine: Machine) -> str:
    """`1 h200-141`, `8 h100-80`, `2 nodes of 8 h100-80`."""
    cards = f"{machine.gpus_per_node} {machine.gpu.name}"
    return cards if machine.nodes == 1 else f"{machine.nodes} nodes of {cards}"


def smallest(question: Question, cards: list[Gpu]) -> Estimate | None:
    """On the fewest GPUs that it fits on, of the card with the least memory; else None."""
    for nodes, gpus in COUNTS:
        for card in cards:
            machine = Machine(card, nodes, gpus, rdma=bool(question.loaded.profile.rdma))
            if machine.ranks > question.train.global_batch_size:
                return None
            found = estimate(replace(question, machine=machine, measured=None))
            if found.memory is not None and found.memory.fits:
                return found
    return None


def advice(found: Estimate) -> list[str]:
    """Sentences, the most important first."""
    return [*_memory(found), *_larger(found), *_limits(found), *_fewer(found), *_data(found)]


def _memory(found: Estimate) -> Iterator[str]:
    memory = found.memory
    if memory is None or memory.fits:
        return
    yield memory.problem
    least = smallest(found.question, list(GPUS.values()))
    if least is not None and least.question.machine is not None:
        yield f"it fits on {where(least.question.machine)}"


def _larger(found: Estimate) -> Iterator[str]:
    """Where memory is what makes it slow."""
    question, memory, time = found.question, found.memory, found.time
    machine = question.machine
    if machine is None or memory is None or time is None or question.train.method == "full":
        return
    if not memory.fits or not memory.recomputed or question.train.ops.recompute == "full":
        return
    for gpu in (one for one in GPUS.values() if one.memory_gib > machine.gpu.memory_gib):
        other = estimate(replace(question, machine=replace(machine, gpu=gpu), measured=None))
        if other.time is not None and other.memory is not None and not other.memory.recomputed:
            yield (
                f"{memory.recomputed} of {question.shape.layers} layers are recomputed for want of memory: on "
                f"{gpu.name} none is, and a step takes {other.time.step:.3g} s"
            )
            return


def _limits(found: Estimate) -> Iterator[str]:
    train, time = found.question.train, found.time
    hours = found.question.loaded.config.cluster.max_hours
    if time is not None and time.whole is not None and hours is not None and time.whole > hours * 3600:
        early = " unless it stops early" if train.evaluation.patience else ""
        yield f"cluster.max_hours {hours:g} ends it before its {time.whole / 3600:,.1f} h are over{early}: raise it"
    if train.evaluation.patience is None and train.epochs > 5 and train.max_steps is None:
        yield (
            f"all {train.epochs} epochs are trained however the held-out loss goes: train.evaluation.patience would "
            "stop it early"
        )


def _fewer(found: Estimate) -> Iterator[str]:
    """Where half of the GPUs would do nearly as well."""
    question, time = found.question, found.time
    machine = question.machine
    if machine is None or time is None or machine.ranks == 1 or question.measured is not None:
        return
    nodes, gpus = (machine.nodes // 2, machine.gpus_per_node) if machine.nodes > 1 else (1, machine.gpus_per_node // 2)
    other = estimate(replace(question, machine=replace(machine, nodes=nodes, gpus_per_node=gpus)))
    if other.time is None or other.memory is None or not other.memory.fits:
        return
    ratio = other.time.step / time.step
    if ratio < 1.6:
        change = f"cluster.nodes={nodes}" if machine.nodes > 1 else f"cluster.gpus_per_node={gpus}"
        share = question.lengths.mean * question.step_items / machine.ranks
        yield (
            f"a step has {share:,.0f} tokens for each GPU: half of the GPUs take {ratio:.2f} times as long, for "
            f"{ratio / 2:.2f} of the GPU-hours (--set {change})"
        )


def _data(found: Estimate) -> Iterator[str]:
    lengths = found.question.lengths
    if lengths.items is None and found.question.machine is not None:
        more = "--data FILE, --stats FILE, or --items N with --mean-tokens N"
        yield f"the number of items is not known, so the time is not: add {more}"
    elif lengths.items is not None and lengths.items < found.question.train.global_batch_size:
        yield f"all {lengths.items} items are one step: train.global_batch_size is larger"
