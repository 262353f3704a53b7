"""What training every parameter of a model takes on given machines: arithmetic that kctl and the trainer share.

Of a GPU's memory all terms but one are counted from the code: the rank's share of weights and state; the copy of
gradients that DeepSpeed's step makes of a sub-group (stage3.py, _prepare_fp32_grad_for_sub_group); each layer's input
and one layer's recompute, as rows of LoRA runs have them; logits. The rest, weights gathered and gradients on their way
to their share, is UNIT_ALONE or UNIT_TOGETHER bytes for each weight of the two largest units that a row meets. These
two numbers, and that form, were fitted to seven runs (torch's reserved memory, rank 0; each is then within 2 %): Qwen3
1.7B and 3 layers of Qwen3-30B-A3B on one H100; 4B and 5 layers with and without offload, and 1 layer, on two. Of three
others (`python3 -m tests.gpu.planned`) it says more than was measured: 1.06 times as much of 14 layers of 4B on one,
1.05 and 1.13 of 1.7B on two and on four. More GPUs were not measured.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from trainer.schema.config import TrainConfig
from trainer.schema.parameters import Shape, total_parameters
from trainer.schema.row_bytes import WEIGHT_BYTES, layer_input_bytes, logit_bytes, recomputed_layer_bytes

STATE_BYTES = 16
"""A parameter's in fp32, divided by the ranks: the sum of its gradients, its master, two moments."""
OFFLOADED_BYTES = 24
"""The same in host memory, at most, divided by the nodes: DeepSpeed sums gradients up in one place and steps from
another. Measured: 20.5 (Qwen3 4B) and 23.5 (a mixture of 3.7 B), since what is pinned of it comes in powers of two;
each process takes about 2 GiB beside it."""
UNIT_ALONE, UNIT_TOGETHER = 7.5, 12.75
"""Bytes that torch reserves for each weight of the two largest units, on one GPU and on each of several."""
SUB_GROUP = 1_000_000_000
"""Of a rank's share, so many parameters are stepped at a time, DeepSpeed's sub_group_size."""
MOST_GPUS = 1024
"""That are proposed."""
ROW = 8192
"""Tokens of a row on a GPU, where ops.max_tokens is auto."""
_USABLE = 0.96
"""Of a GPU's memory. Chosen when LoRA runs left 0.04 of it free (MARGIN, 0.03 now); full-parameter runs kept it."""
_MULTIPLE = 128


@dataclass(frozen=True)
class Room:
    """What a run gets of machines."""

    gpus: int
    """On all nodes."""
    gpu_bytes: float
    """Memory of one."""
    nodes: int
    host_bytes: float
    """Memory of one for everything that runs on it."""


@dataclass(frozen=True)
class FullRun:
    """What decides how much memory a full-parameter run takes; of a model of unknown sizes its state alone is known."""

    parameters: int
    precision: Literal["bf16", "fp32"]
    offload: bool
    row: int = ROW
    """Tokens."""
    units: int = 0
    """Weights of the two largest units that a row meets: embedding, head, a layer's experts, a matrix."""
    token_bytes: float = 0.0
    """Of a row's token."""
    logit_bytes: float = 0.0

    def parts(self, gpus: int) -> dict[str, float]:
        """Bytes on each GPU, as torch reserves them."""
        share, held = self.parameters / gpus, not self.offload
        return {
            "weights": WEIGHT_BYTES[self.precision] * share,
            "gradients": 4.0 * share * held,
            "optimizer": 12.0 * share * held,
            "units": self.units * (UNIT_ALONE if gpus == 1 else UNIT_TOGETHER),
            "activations": self.token_bytes * self.row,
            "logits": self.logit_bytes,
            "step": 4.0 * min(share, SUB_GROUP) * held,
        }

    def state(self, gpus: int) -> float:
        """Bytes of weights and state on each GPU."""
        return (WEIGHT_BYTES[self.precision] + STATE_BYTES * (not self.offload)) * self.parameters / gpus

    def on_gpu(self, gpus: int) -> float:
        """All bytes on each."""
        return sum(self.parts(gpus).values())

    def fits(self, gpus: int, gpu_bytes: float) -> bool:
        """Into the GPUs' memory."""
        return self.on_gpu(gpus) <= _USABLE * gpu_bytes

    def on_host(self, nodes: int) -> float:
        """Bytes of state on each node, with offload; at most."""
        return OFFLOADED_BYTES * self.parameters / nodes


def full_run(shape: Shape, train: TrainConfig, row: int) -> FullRun:
    """The run that trains every parameter of a model of these sizes in rows of at most `row` tokens."""
    token = layer_input_bytes(shape, train) + recomputed_layer_bytes(shape, train)
    size = FullRun(total_parameters(shape), train.precision, train.ops.offload, row)
    return replace(size, units=_largest_two(shape), token_bytes=token, logit_bytes=logit_bytes(shape))


def _largest_two(shape: Shape) -> int:
    """Weights of the two largest units that a row meets; a tied embedding is met at both ends."""
    experts, matrix = 3 * shape.experts * shape.hidden * shape.expert_width, shape.hidden * shape.mlp_width
    layers = [experts] * min(2, shape.expert_layers) + [matrix] * min(2, shape.mlp_layers)
    return sum(sorted([shape.vocab * shape.hidden] * 2 + layers)[-2:])


def too_large(run: FullRun, room: Room) -> str | None:
    """Why the run cannot be in this room, and what may fit; None where it may.

    An estimate of what torch reserves, for kctl; the trainer asks without `units` and so refuses what has no chance.
    """
    if not run.fits(room.gpus, room.gpu_bytes):
        return _gpus_too_small(run, room)
    need = run.on_host(room.nodes)
    if not run.offload or need <= room.host_bytes:
        return None
    more = math.ceil(need * room.nodes / room.host_bytes)
    return (
        f"train.ops.offload: {run.parameters / 1e9:.3g} billion parameters need {_gib(need)} GiB of host memory on "
        f"each node, which has {_gib(room.host_bytes)}; what may fit: more memory for the pod (memory in the "
        f"cluster profile), {more} such nodes, or method lora"
    )


def _gpus_too_small(run: FullRun, room: Room) -> str:
    state, usable = run.state(room.gpus), _USABLE * room.gpu_bytes
    beside = run.on_gpu(room.gpus) - state
    need = f"{_gib(state)} GiB of state and about {_gib(beside)} for rows of {run.row:,} tokens and what is exchanged"
    return (
        f"train.method full: {run.parameters / 1e9:.3g} billion parameters need {need} on each of {room.gpus} "
        f"GPUs, of whose {_gib(room.gpu_bytes)} GiB {_gib(usable)} can be used; what may fit: "
        f"{', or '.join([*_remedies(run, room), 'GPUs with more memory', 'method lora'])}"
    )


def _remedies(run: FullRun, room: Room) -> Iterator[str]:
    if not run.offload and replace(run, offload=True).fits(room.gpus, room.gpu_bytes):
        need = _gib(run.on_host(room.nodes))
        yield f"train.ops.offload: true with {need} GiB of host memory on each node, which has {_gib(room.host_bytes)}"
    rest = _USABLE * room.gpu_bytes - replace(run, row=0).on_gpu(room.gpus)
    tokens = int(rest / run.token_bytes) // _MULTIPLE * _MULTIPLE if run.token_bytes else 0
    if tokens >= _MULTIPLE:
        yield f"train.ops.max_tokens: {tokens} if no item is longer"
    more = (gpus for gpus in range(room.gpus + 1, MOST_GPUS + 1) if run.fits(gpus, room.gpu_bytes))
    if (enough := next(more, None)) is not None:
        yield f"{enough} such GPUs"


def _gib(number: float) -> str:
    return f"{number / 2**30:.1f}"
