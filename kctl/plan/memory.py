"""Memory of one GPU by part, as the trainer will plan it; and the rows that come of it."""

import random
from dataclasses import dataclass

from kctl.config.kubernetes_names import quantity
from kctl.plan.question import Question
from trainer.schema.gpus import Machine
from trainer.schema.memory import ROW, Room, full_run, too_large
from trainer.schema.memory_plan import MARGIN, momentary_bytes, wanted_tokens
from trainer.schema.packing import ROW_MULTIPLE, Packing, Rows, pack
from trainer.schema.parameters import lora_parameters
from trainer.schema.row_bytes import BESIDE, held_bytes, logit_bytes, row_plan, trained_parameters
from trainer.schema.speed import FLASH_WIDEST

GIB = 2.0**30
KERNELS = "flash-attn 4 and quack, as in the trainer's image; a run's first line says what it has"
"""What a plan takes for granted: without them a run is slower. The log's line is trainer.train's."""
MEASURED_GPUS = 4
"""The most that LoRA runs were measured on beside their plans (python3 -m tests.gpu.planned)."""
STEPS = 16
"""Steps that are packed to see how long rows and steps are."""
MOST_PACKED = 65_536
"""Items of a step that are packed; of a larger step these stand for all."""

Packed = list[tuple[list[int], list[Rows]]]
"""Some steps: lengths of their items, and rows by rank."""


@dataclass(frozen=True)
class Memory:
    """Of one GPU, in bytes."""

    parts: dict[str, float]
    """With the longest row of some steps."""
    total: float
    """The GPU's."""
    fits: bool
    """By the trainer's own measure, with the longest row that may be."""
    row: int
    """Tokens of that."""
    recomputed: int
    """Layers."""
    problem: str
    """Why it does not fit, and what may; empty where it does."""
    sure: str
    """How sure this is."""

    @property
    def needed(self) -> float:
        """All parts together."""
        return sum(self.parts.values())


def memory_of(question: Question, machine: Machine) -> tuple[Memory, Packed]:
    """What each GPU holds, and some steps packed accordingly."""
    return _full(question, machine) if question.train.method == "full" else _lora(question, machine)


def unmeasured(question: Question, machine: Machine) -> str | None:
    """Why a LoRA run is unlike those that were measured; None where it is like them."""
    shape, train = question.shape, question.train
    if not machine.gpu.measured:
        return f"nothing was measured on {machine.gpu.name}: speed by its data sheet, quack's products on Hopper alone"
    if train.precision != "bf16" or train.ops.kernels != "auto":
        return "only bf16 with train.ops.kernels: auto was measured"
    if shape.special_attention:
        return "the model keeps transformers' own attention, which takes more"
    if shape.head_dim > FLASH_WIDEST:
        return f"flash-attn 4 takes no heads of {shape.head_dim} values, and torch's attention was not measured"
    if not shape.qk_norm:
        return "no model of this kind was measured"
    if train.lora is not None and {"mlp", "shared_expert"} & set(lora_parameters(shape, train.lora)):
        return "adapters on a plain MLP were not measured"
    return None


def _lora(question: Question, machine: Machine) -> tuple[Memory, Packed]:
    train, shape, lengths = question.train, question.shape, question.lengths
    total, longest = machine.gpu.memory_gib * GIB, max(lengths.tokens)
    held = held_bytes(shape, train, machine.ranks)
    moment = momentary_bytes(trained_parameters(shape, train), machine.ranks)
    free = total - BESIDE - sum(held.values()) - moment - MARGIN * total
    plan = row_plan(shape, train, free, wanted_tokens(lengths.mean, train, machine.ranks), longest)
    packed = _packed(question, machine, plan.ceiling)
    assert plan.costs is not None
    rows = plan.costs.peak(_longest(packed), plan.recomputed)
    parts = {**held, "activations": rows, "logits": logit_bytes(shape), "step": moment, "workspace": BESIDE}
    fits = plan.costs.peak(plan.ceiling, plan.recomputed) <= free
    state = sum(held.values()) / GIB
    problem = (
        f"weights and state take {state:.1f} GiB and a row of {plan.ceiling:,} tokens {rows / GIB:.1f}, with "
        f"{plan.recomputed} of {shape.layers} layers recomputed: more memory (--gpu, --fit), or a smaller "
        "train.data.max_length or train.lora.expert_rank"
    )
    problem, reason = "" if fits else problem, unmeasured(question, machine)
    within = "within 10 %" + ("" if machine.ranks <= MEASURED_GPUS else " on one to four GPUs; more were not measured")
    sure = f"unsure: {reason}" if reason else within
    return Memory(parts, total, fits, plan.ceiling, plan.recomputed, problem, sure), packed


def _full(question: Question, machine: Machine) -> tuple[Memory, Packed]:
    """As the trainer asks before it loads anything."""
    train, shape = question.train, question.shape
    told = ROW if train.ops.max_tokens == "auto" else train.ops.max_tokens
    ceiling = max(told, *question.lengths.tokens)
    run = full_run(shape, train, ceiling)
    total, host = machine.gpu.memory_gib * GIB, float(quantity(question.loaded.profile.memory))
    reason = too_large(run, Room(machine.ranks, total, machine.nodes, host))
    parts = run.parts(machine.ranks) | {"workspace": BESIDE}
    sure = "unsure: fitted to 7 runs on one and two H100; 3 others took 4 to 12 % less"
    memory = Memory(parts, total, reason is None, ceiling, shape.layers, reason or "", sure)
    return memory, _packed(question, machine, ceiling)


def _packed(question: Question, machine: Machine, ceiling: int) -> Packed:
    equal = question.train.method == "full"
    packing = Packing(machine.ranks, ceiling, equal_rows=equal, multiple=ROW_MULTIPLE)
    return [(lengths, pack(range(len(lengths)), lengths, packing)) for lengths in _steps(question)]


def _steps(question: Question) -> list[list[int]]:
    """Lengths of the items of some steps."""
    size = min(question.step_items, MOST_PACKED)
    tokens = list(question.lengths.tokens)
    random.Random(0).shuffle(tokens)
    count = max(1, min(STEPS, len(tokens) // size))
    return [[tokens[(step * size + place) % len(tokens)] for place in range(size)] for step in range(count)]


def _longest(packed: Packed) -> int:
    """Tokens of the longest row, padded."""
    rows = (sum(lengths[item] for item in row) for lengths, ranks in packed for own in ranks for row in own)
    return max(-(-tokens // ROW_MULTIPLE) * ROW_MULTIPLE for tokens in rows)
