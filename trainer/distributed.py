"""The process group: start and end, what the ranks agree on, and what an exception means for the run."""

import atexit
import contextlib
import os
import re
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from trainer.errors import PeersAbsent, TrainerError
from trainer.pod.outcome import PREEMPTED
from trainer.schema.contract import ENV_STOP_FILE, ExitCode

T = TypeVar("T")

PEER_WORDS = ("connection closed by peer", "connection reset", "broken pipe", "socket timeout", "nccl", "gloo")
"""Fragments of torch's messages when another rank is gone; torch has no class of its own for gloo."""


@dataclass(frozen=True)
class Ranks:
    """This process among the others."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True on the one rank that writes what all share."""
        return self.rank == 0


def join(timeout: timedelta = timedelta(minutes=30)) -> Ranks:
    """Join the group torchrun describes in the environment: NCCL with a GPU, gloo without."""
    cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local_rank)
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        # With two threads a rank, a loaded machine is five times slower.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout, device_id=device if cuda else None)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise PeersAbsent(f"the other ranks did not join within {timeout}: {error}") from error
    if not cuda:
        _without_shared_memory_kernel()
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def _without_shared_memory_kernel() -> None:
    # DeepSpeed would compile a CPU collective for 80 s at the first start; gloo gives the same sums.
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def network() -> str | None:
    """What NCCL moves bytes over between nodes: `IB`, `Socket` (about ten times slower) or a plugin's name.

    None where it was not asked to tell: trainer.pod.node asks it where there are several nodes.
    """
    written = Path(os.environ.get("NCCL_DEBUG_FILE", "").replace("%p", str(os.getpid())))
    said = written.read_text(errors="replace") if written.is_file() else ""
    return next(reversed(re.findall(r"NCCL INFO Using network (\S+)", said)), None)


def leave() -> None:
    """End the group where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end_process(code: int = 0) -> NoReturn:
    """Exit with `code`: what was printed is flushed, what libraries left for the end is done, Python not taken down.

    A thread of gloo's may still let go of the last collective's tensor and wait for the GIL to do so. A Python before
    3.14 that goes down ends it there, which C++ answers with "terminate called without an active exception": the rank
    dies of SIGABRT, after all was done (torch 2.13; pytorch#190489).
    """
    with contextlib.suppress(SystemExit):
        sys.exit(code)  # wandb looks here whether the run failed
    atexit._run_exitfuncs()  # wandb holds its records until then
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def summed(values: list[float] | torch.Tensor, device: torch.device) -> list[float]:
    """Element-wise sum over all ranks in fp64; the one device-to-host copy of whoever calls it."""
    vector = torch.as_tensor(values, dtype=torch.float64, device=device).clone()
    dist.all_reduce(vector)
    return [float(value) for value in vector.tolist()]


def gathered(value: T) -> list[T]:
    """Every rank's value, by rank. What is sent is pickled; nothing of it comes from a file."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def stop_asked() -> str | None:
    """What the launcher wrote into its stop file: preempted, time-limit, or None."""
    path = os.environ.get(ENV_STOP_FILE)
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or PREEMPTED
    except FileNotFoundError:
        return None


def exit_code_of(error: BaseException) -> ExitCode:
    """The contract's code for whatever ended this rank."""
    if isinstance(error, TrainerError):
        return error.code
    if isinstance(error, torch.OutOfMemoryError):
        return ExitCode.OUT_OF_MEMORY
    text = str(error).lower()
    lost = isinstance(error, dist.DistBackendError | dist.DistNetworkError | dist.DistStoreError)
    if lost or (isinstance(error, RuntimeError) and any(word in text for word in PEER_WORDS)):
        return ExitCode.PEER_LOST
    if isinstance(error, torch.AcceleratorError) or "cuda error" in text:
        return ExitCode.DEVICE
    return ExitCode.UNKNOWN
