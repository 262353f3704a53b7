"""Whether all parameters of a model can be trained on given machines: arithmetic that kctl and the trainer share."""

import math
from dataclasses import dataclass, replace
from typing import Literal

WEIGHT_BYTES = {"bf16": 2, "fp32": 4}
"""A parameter's, divided by the ranks."""
STATE_BYTES = 16
"""A parameter's in fp32, divided by the ranks: the sum of its gradients, its master, two moments."""
OFFLOADED_BYTES = 20
"""The same in host memory, divided by the nodes: DeepSpeed sums gradients up in one place and steps from another.
Measured: 20.5 (Qwen3 4B) and 23.4 (a mixture of 3.7 B), since what is pinned of it comes in powers of two."""
TOKEN_BYTES = 1_800_000
"""A row's token beside the state, roughly: Qwen3 4B took 14 GiB for rows of 8,192 tokens on one GPU, with all layers
recomputed; gathered weights and buffers are in it. On each of two GPUs later: 17 GiB, with offload 12."""
ROW = 8192
"""Tokens of a row on a GPU, where ops.max_tokens is auto."""
_USABLE = 0.96
"""Of a GPU's memory; trainer.schema.memory_plan.MARGIN is the rest."""
_MULTIPLE = 128


@dataclass(frozen=True)
class Machines:
    """What a run gets."""

    gpus: int
    """On all nodes."""
    gpu_bytes: float
    """Memory of one."""
    nodes: int
    host_bytes: float
    """Memory of one for everything that runs on it."""


@dataclass(frozen=True)
class FullRun:
    """What decides how much memory a full-parameter run takes."""

    parameters: int
    precision: Literal["bf16", "fp32"]
    offload: bool
    row: int = ROW
    """Tokens."""

    def on_gpu(self, gpus: int) -> float:
        """Bytes of weights and state on each."""
        return (WEIGHT_BYTES[self.precision] + STATE_BYTES * (not self.offload)) * self.parameters / gpus

    def fits(self, gpus: int, gpu_bytes: float) -> bool:
        """Into the GPUs' memory."""
        return self.on_gpu(gpus) + TOKEN_BYTES * self.row <= _USABLE * gpu_bytes

    def on_host(self, nodes: int) -> float:
        """Bytes of state on each node, with offload."""
        return OFFLOADED_BYTES * self.parameters / nodes


def too_large(run: FullRun, machines: Machines) -> str | None:
    """Why the run cannot be on these machines, and what may fit; None where it may.

    An estimate: it refuses what has no chance and lets pass what is close.
    """
    if not run.fits(machines.gpus, machines.gpu_bytes):
        return _gpus_too_small(run, machines)
    need = run.on_host(machines.nodes)
    if not run.offload or need <= machines.host_bytes:
        return None
    more = math.ceil(need * machines.nodes / machines.host_bytes)
    return (
        f"train.ops.offload: {run.parameters / 1e9:.3g} billion parameters need {_gib(need)} GiB of host memory on "
        f"each node, which has {_gib(machines.host_bytes)}; what may fit: more memory for the pod (memory in the "
        f"cluster profile), {more} such nodes, or method lora"
    )


def _gpus_too_small(run: FullRun, machines: Machines) -> str:
    state, usable = run.on_gpu(machines.gpus), _USABLE * machines.gpu_bytes
    need = f"{_gib(state)} GiB of state and about {_gib(TOKEN_BYTES * run.row)} for rows of {run.row:,} tokens"
    return (
        f"train.method full: {run.parameters / 1e9:.3g} billion parameters need {need} on each of {machines.gpus} "
        f"GPUs, of whose {_gib(machines.gpu_bytes)} GiB {_gib(usable)} can be used; what may fit: "
        f"{', or '.join([*_remedies(run, machines, usable - state), 'GPUs with more memory', 'method lora'])}"
    )


def _remedies(run: FullRun, machines: Machines, rest: float) -> list[str]:
    """`rest`: bytes of a GPU that the state leaves, if any."""
    found, usable = [], _USABLE * machines.gpu_bytes
    if not run.offload and replace(run, offload=True).fits(machines.gpus, machines.gpu_bytes):
        need = _gib(run.on_host(machines.nodes))
        found.append(
            f"train.ops.offload: true with {need} GiB of host memory on each node, which has "
            f"{_gib(machines.host_bytes)}"
        )
    tokens = int(rest / TOKEN_BYTES) // _MULTIPLE * _MULTIPLE
    if tokens >= _MULTIPLE:
        found.append(f"train.ops.max_tokens: {tokens} if no item is longer")
    beside_rows = usable - TOKEN_BYTES * run.row
    if beside_rows > 0:
        found.append(f"{math.ceil(run.on_gpu(1) / beside_rows)} such GPUs")
    return found


def _gib(number: float) -> str:
    return f"{number / 2**30:.1f}"
