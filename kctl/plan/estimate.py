"""One config on one machine: what it trains, whether it fits, how long it takes and what that costs."""

from dataclasses import dataclass, replace

from kctl.plan.memory import MEASURED_GPUS, Memory, Packed, memory_of, unmeasured
from kctl.plan.question import Question
from trainer.schema.gpus import Machine
from trainer.schema.parameters import lora_parameters, total_parameters
from trainer.schema.row_bytes import WEIGHT_BYTES, trained_parameters
from trainer.schema.schedule import steps_per_epoch, total_steps
from trainer.schema.speed import Work, full_seconds, step_seconds

START = 60.0
"""Seconds from Python to the first step, compiling included: 27 to 66 on an H200 (trainer/bench/README.md)."""
VOLUME = 1e9
"""Bytes a second at which weights come from a volume. Taken, not measured."""
HELD_OUT = 0.4
"""Time of a held-out token over that of a trained one: no backward."""
CHECKPOINT = 12
"""Bytes a trained value: fp32 and two moments."""


@dataclass(frozen=True)
class Time:
    """Seconds, of what is known."""

    step: float
    tokens_per_s: float
    source: str
    epoch: float | None = None
    """With its evaluations."""
    whole: float | None = None
    """All steps, evaluations and the start; at most, where the run may stop early."""
    gpu_hours: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Estimate:
    """The answer."""

    question: Question
    trained: dict[str, int]
    """Parameters by family; `all` of method full."""
    total: int
    published: float
    """Bytes of the adapter (fp32) or the model that the run leaves."""
    steps: int | None
    steps_an_epoch: int | None
    memory: Memory | None
    time: Time | None

    @property
    def checkpoint(self) -> float:
        """Bytes of one."""
        return float(CHECKPOINT * sum(self.trained.values()))


def estimate(question: Question) -> Estimate:
    """Everything that the question lets one know."""
    train, shape, items, machine = question.train, question.shape, question.lengths.items, question.machine
    total = total_parameters(shape)
    trained = lora_parameters(shape, train.lora) if train.lora else {"all": total}
    published = 4.0 * sum(trained.values()) if train.lora else float(total * WEIGHT_BYTES[train.precision])
    memory, packed = memory_of(question, machine) if machine else (None, [])
    return Estimate(
        question=question,
        trained=trained,
        total=total,
        published=published,
        steps=total_steps(items, train) if items else train.max_steps,
        steps_an_epoch=steps_per_epoch(items, train) if items else None,
        memory=memory,
        time=_time(question, memory, packed),
    )


def _time(question: Question, memory: Memory | None, packed: Packed) -> Time | None:
    train, measured, machine = question.train, question.measured, question.machine
    if measured is not None:
        tokens = question.lengths.mean * question.step_items
        return _whole(question, tokens / measured.tokens_per_s, f"as fast as {measured.run} was here")
    if machine is None or memory is None or not memory.fits or not machine.gpu.flops:
        return None
    if train.precision != "bf16" or train.ops.kernels != "auto":
        return None
    work = Work(question.shape, train, machine.gpu)
    seconds = 0.0
    for lengths, rows in packed:
        labels = question.lengths.labels * sum(lengths)
        full = train.method == "full"
        seconds += (
            full_seconds(work, machine, rows, float(sum(lengths)))
            if full
            else step_seconds(work, machine, rows, lengths, labels, memory.recomputed)
        )
    whole_steps = question.step_items / len(packed[0][0])
    return _whole(question, seconds / len(packed) * whole_steps, _how(question, machine))


def _how(question: Question, machine: Machine) -> str:
    """How sure a time is."""
    if question.train.method == "full":
        return "unsure: ZeRO-3 waits for the host; one run took a quarter longer on another machine of the same kind"
    reason = unmeasured(question, machine)
    if reason is not None:
        return f"unsure: {reason}"
    if machine.ranks <= MEASURED_GPUS:
        return "within 15 %"
    exchange = machine.exchange(8.0 * trained_parameters(question.shape, question.train))
    return f"within 15 % on one to four GPUs; more were not timed, {exchange:.2g} s of it is what they exchange"


def _whole(question: Question, step: float, source: str) -> Time:
    """From a step to the run: epochs, held-out loss at each evaluation, the start."""
    train, lengths, machine = question.train, question.lengths, question.machine
    whole = Time(step, lengths.mean * question.step_items / step, source)
    if lengths.items is None:
        return whole
    an_epoch, steps = steps_per_epoch(lengths.items, train), total_steps(lengths.items, train)
    held = min(train.evaluation.max_items, lengths.held_out) * lengths.mean / whole.tokens_per_s * HELD_OUT
    times = min(train.evaluation.per_epoch, an_epoch)
    weights = 2.0 * total_parameters(question.shape)
    seconds = steps * step + (1 + times * steps / an_epoch) * held + START + weights / VOLUME
    whole = replace(whole, epoch=an_epoch * step + times * held, whole=seconds)
    if machine is None:
        return whole
    hours, price = seconds * machine.ranks / 3600, question.loaded.profile.price_per_gpu_hour
    return replace(whole, gpu_hours=hours, cost=None if price is None else hours * price)
