"""How an estimate looks: one screen, or several side by side."""

import textwrap
from collections.abc import Sequence

from kctl import console
from kctl.plan.advice import advice, where
from kctl.plan.estimate import Estimate
from kctl.plan.memory import GIB, KERNELS, Memory
from kctl.run.page import size_of, span
from trainer.schema.parameters import FAMILIES

PARTS = {
    "weights": "weights",
    "adapter": "adapter, fp32",
    "gradients": "gradients",
    "optimizer": "optimizer, this GPU's share",
    "buckets": "buffers of the reduction",
    "units": "gathered weights, their gradients",
    "activations": "activations of the longest row",
    "logits": "logits of 256 labels",
    "step": "the optimiser's step, for a moment",
    "workspace": "CUDA, NCCL, libraries",
}


def screen(found: Estimate, width: int | None) -> str:
    """What answers: does it fit, how long, what does it cost, what trains, what should change. Lines of at most `width`
    columns; None: as long as they are."""
    facts = [
        ("Run", f"{found.question.loaded.config.run}, method {found.question.train.method}, on {on(found)}"),
        ("Fits", _fits(found)),
        ("Time", _time(found)),
        ("Step", _step(found)),
        ("Cost", _cost(found)),
        ("Trains", _trains(found)),
        ("Writes", _writes(found)),
        ("Data", _data(found)),
        ("From", f"lengths: {found.question.lengths.source}; model: {found.question.model}"),
        ("Kernels", KERNELS if found.question.machine and found.question.train.ops.kernels == "auto" else ""),
        *(("Advice", note) for note in advice(found)),
    ]
    lines = [f"{name + ':':<8} {console.printable(value)}" for name, value in facts if value]
    if width is not None:
        wrap = textwrap.TextWrapper(max(40, width), subsequent_indent=" " * 9, break_on_hyphens=False)
        lines = [part for line in lines for part in wrap.wrap(line)]
    return "\n".join([*lines, *([] if found.memory is None else ["", *_table(found.memory)])])


def side_by_side(several: Sequence[Estimate]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of a table with a column for each."""
    columns = [_column(found) for found in several]
    names = [name for name in columns[0] if any(column[name] != "-" for column in columns)]
    return ["", *(found.question.loaded.path.stem for found in several)], [
        [name, *(column[name] for column in columns)] for name in names
    ]


def _column(found: Estimate) -> dict[str, str]:
    """Short cells."""
    memory, time = found.memory, found.time
    layers = found.question.shape.layers
    return {
        "on": on(found),
        "fits": "-" if memory is None else _word(memory),
        "GiB of a GPU": "-" if memory is None else f"{memory.needed / GIB:.1f} of {memory.total / GIB:.1f}",
        "layers recomputed": "-" if memory is None else f"{memory.recomputed} of {layers}",
        "s a step": "-" if time is None else f"{time.step:.3g}",
        "tokens/s": "-" if time is None else f"{time.tokens_per_s:,.0f}",
        "steps": "-" if found.steps is None else f"{found.steps:,}",
        "an epoch": "-" if time is None or time.epoch is None else span(time.epoch),
        "whole": "-" if time is None or time.whole is None else _most(found) + span(time.whole),
        "GPU-hours": "-" if time is None or time.gpu_hours is None else f"{time.gpu_hours:,.1f}",
        "cost": "-" if time is None or time.cost is None else f"{time.cost:,.2f}",
        "trained": _millions(sum(found.trained.values())),
        **{family.replace("_", " "): _millions(found.trained.get(family, 0)) for family in FAMILIES},
        "adapter or model": size_of(round(found.published)),
        "a checkpoint": size_of(round(found.checkpoint)),
    }


def on(found: Estimate) -> str:
    """The machine in words."""
    machine = found.question.machine
    return where(machine) if machine else f"{found.question.ranks} CPU processes"


def _word(memory: Memory) -> str:
    return "yes" if memory.fits else "no"


def _fits(found: Estimate) -> str:
    memory, measured = found.memory, found.question.measured
    if memory is None:
        return f"took {measured.mem_gib:.1f} GiB a process in {measured.run} here" if measured else "not known for CPUs"
    layers = found.question.shape.layers
    recomputed = f"{memory.recomputed} of {layers} layers recomputed" if memory.recomputed else "no layer recomputed"
    used = f"{memory.needed / GIB:.1f} of {memory.total / GIB:.1f} GiB of each GPU"
    return f"{_word(memory)}, {used}; rows of at most {memory.row:,} tokens, {recomputed} ({memory.sure})"


def _time(found: Estimate) -> str:
    time = found.time
    if time is None:
        return f"not known: {_no_time(found)}"
    if time.whole is None or time.epoch is None or found.steps is None:
        return "not known: the number of items is not"
    whole = f"{_most(found)}{span(time.whole)} for {found.steps:,} steps, an epoch of {found.steps_an_epoch:,} in "
    return f"{whole}{span(time.epoch)}; sample answers and slow volumes come on top"


def _step(found: Estimate) -> str:
    time = found.time
    return "" if time is None else f"{time.step:.3g} s, {time.tokens_per_s:,.0f} tokens/s ({time.source})"


def _most(found: Estimate) -> str:
    return "at most " if found.question.train.evaluation.patience else ""


def _no_time(found: Estimate) -> str:
    question = found.question
    if found.memory is not None and not found.memory.fits:
        return "it does not fit"
    if question.machine is None:
        return "no finished run like it on as many processes is in .kctl here"
    if question.train.precision != "bf16" or question.train.ops.kernels != "auto":
        return "only bf16 with train.ops.kernels: auto was timed"
    return f"the speed of {question.machine.gpu.name!r} is not: add --gpu"


def _cost(found: Estimate) -> str:
    time, price = found.time, found.question.loaded.profile.price_per_gpu_hour
    if time is None or time.gpu_hours is None:
        return ""
    if time.cost is None:
        return f"{time.gpu_hours:,.1f} GPU-hours (price_per_gpu_hour in the cluster profile makes it money)"
    return f"{time.cost:,.2f} = {time.gpu_hours:,.1f} GPU-hours at {price:g}"


def _trains(found: Estimate) -> str:
    parts = ", ".join(f"{family.replace('_', ' ')} {_millions(count)}" for family, count in found.trained.items())
    return f"{sum(found.trained.values()):,} of {found.total:,} parameters: {parts}"


def _writes(found: Estimate) -> str:
    what = "an adapter" if found.question.train.lora else "a model"
    return f"{what} of {size_of(round(found.published))}, checkpoints of {size_of(round(found.checkpoint))}"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count else "-"


def _data(found: Estimate) -> str:
    lengths = found.question.lengths
    items = "items unknown" if lengths.items is None else f"{lengths.items:,} items, {lengths.held_out:,} held out"
    return f"{items}; {lengths.mean:,.0f} tokens an item, the longest {max(lengths.tokens):,} ({lengths.sure})"


def _table(memory: Memory) -> list[str]:
    rows = [(PARTS[name], value) for name, value in memory.parts.items()]
    rows += [("together", memory.needed), ("the GPU has", memory.total)]
    return ["GiB of each GPU", *(f"  {name:<34} {value / GIB:>7.1f}" for name, value in rows)]
