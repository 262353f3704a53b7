"""State and weights of a full-parameter run under ZeRO-3.

The state is written as LoRA's is, in slices that any number of ranks loads: DeepSpeed's own files are pickles, and for
as many ranks as wrote them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainer.checkpoints import Checkpoint, Files, Named
from trainer.distributed import Ranks
from trainer.engine import create_moments
from trainer.errors import RunsFolderError
from trainer.slices import PARTS, Slice, copy_overlap, keyed, stored_slices, write_slices
from trainer.whole_model import full_files

FILE_BYTES = 1_000_000_000
"""A file of state at most, and what a rank holds of it in host memory."""


def shard_at_load(config: dict[str, Any]) -> object:
    """Makes from_pretrained partition weights as it reads them; keep the result alive until the model is loaded."""
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(config)


def write_state(
    parameters: Named, engine: Any, ranks: Ranks, temp: Path, about: dict[str, str]
) -> Files | RunsFolderError:
    """This rank's masters and moments into `temp`, file by file; signatures, or what kept this rank from it.

    Not raised: the others wait for what each of them has to say.
    """
    files: Files = {}
    try:
        slices = keyed(_owned(parameters, engine, ranks.rank))
        for number, tensors in enumerate(full_files(slices, FILE_BYTES)):
            path = temp / f"rank-{ranks.rank:04d}-{number:04d}.safetensors"
            files[path.name] = write_slices(path, tensors, {**about, "rank": str(ranks.rank)})
            tensors.clear()
    except RunsFolderError as error:
        return error
    return files


def load_state(parameters: Named, engine: Any, ranks: Ranks, checkpoint: Checkpoint, run: str) -> None:
    """Weights, masters and moments of a verified checkpoint that any number of ranks wrote. CheckpointError."""
    zero, by_name = engine.optimizer, dict(parameters)
    zero.checkpoint_event_prologue()  # gives small parameters up that are whole on each rank
    create_moments(zero.optimizer, zero.fp32_partitioned_groups_flat, checkpoint.progress.updates)
    for stored in stored_slices(parameters, checkpoint, run):
        parameter = by_name[stored.name]
        share = _share(parameter, stored.part)
        start, count = _place(parameter, ranks.rank)
        if copy_overlap(start, share[:count], stored):
            _set_share(parameter, stored.part, share)
    zero.checkpoint_event_epilogue()


def _owned(parameters: Named, engine: Any, rank: int) -> Iterator[Slice]:
    """This rank's slices on the CPU, one by one."""
    begun = bool(engine.optimizer.optimizer.state)
    for name, parameter in parameters:
        start, count = _place(parameter, rank)
        for part in PARTS if begun else PARTS[:1]:
            if count:
                yield name, start, part, _share(parameter, part)[:count].cpu()


def _place(parameter: nn.Parameter, rank: int) -> tuple[int, int]:
    """Offset and length of what a rank owns of it; its share may be longer than that, as all shares are equal."""
    share: int = parameter.ds_tensor.ds_numel
    start = min(share * rank, parameter.ds_numel)
    return start, min(share, parameter.ds_numel - start)


def _share(parameter: nn.Parameter, part: str) -> Tensor:
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    found: Tensor
    if part == "master":
        found = safe_get_local_fp32_param(parameter)
    else:
        found = safe_get_local_optimizer_state(parameter, part)
    return found


def _set_share(parameter: nn.Parameter, part: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    if part == "master":
        safe_set_local_fp32_param(parameter, value)
        parameter.ds_tensor.data.copy_(value)
    else:
        safe_set_local_optimizer_state(parameter, value, part)


def whole_values(model: nn.Module, first: bool) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of all that the model's files hold, on the CPU of the first rank, gathered one by one.

    Each item is a collective: the first rank reads at its pace, and all ranks read to the end. The others get nothing.
    """
    import deepspeed

    done = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in done:  # tied to one that is there
            continue
        done.add(id(value))
        with deepspeed.zero.GatheredParameters(value):
            whole = value.detach().to("cpu", copy=True) if first else None
        if whole is not None:
            yield name, whole
