"""How a run is operated. Nothing here changes what is computed, so none of it names the run."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from trainer.schema.section import Section

_EVERY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(min|h|s|steps)\s*$")


def parse_every(text: str) -> tuple[float, Literal["seconds", "steps"]]:
    """'15 min' -> (900.0, "seconds"), '2 h', '30 s'; '100 steps' -> (100.0, "steps"). ValueError otherwise."""
    match = _EVERY.match(text)
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"write a positive time or count like '15 min', '1 h', '30 s' or '100 steps', got {text!r}")
    number, unit = float(match[1]), match[2]
    if unit == "steps":
        if number != int(number):
            raise ValueError(f"write a whole number of steps, got {text!r}")
        return number, "steps"
    return number * {"s": 1, "min": 60, "h": 3600}[unit], "seconds"


def _checked(text: str) -> str:
    parse_every(text)
    return text


def _time(text: str) -> str:
    if parse_every(text)[1] == "steps":
        raise ValueError(f"write a time like '10 min' or '1 h', got {text!r}")
    return text


def _auto_or_tokens(value: object) -> object:
    whole = isinstance(value, int | str) and not isinstance(value, bool) and str(value).isdigit()
    if value == "auto" or (whole and int(str(value)) >= 128):
        return value
    raise ValueError(f"must be auto or a whole number of tokens >= 128, got {value}")


class Checkpoint(Section):
    """Resumable state on the runs volume."""

    shorthand: ClassVar = "every"

    every: Annotated[str, AfterValidator(_checked)] = "15 min"
    """'15 min', '1 h', '30 s' or '100 steps'. One is also written at every stop."""
    keep: int = Field(2, ge=1, le=100)
    """How many of the newest are kept; with adapters also the one of the best adapter's step, or the newest before."""
    keep_every: int | None = Field(None, ge=1)
    """Steps: the first checkpoint in each so many is kept too, for good; null: none."""


class Generate(Section):
    """Answers to fixed validation prompts, written to samples.jsonl at every evaluation."""

    items: int = Field(3, ge=0, le=64)
    """How many prompts; 0: none."""
    max_new_tokens: int = Field(64, ge=1, le=4096)
    """Length limit of one answer; decoding is greedy."""


class Wandb(Section):
    """Weights & Biases, only if asked for. The key comes from cluster.env by secret reference.
    Needs the package: `pip install kctl[wandb]`; the image has it."""

    shorthand: ClassVar = "project"

    project: str = Field(min_length=1)
    """Project name."""
    mode: Literal["offline", "online"] = "offline"
    """offline writes to the run's folder; online needs egress and WANDB_API_KEY."""


class Ops(Section):
    """May change between a run's attempts."""

    max_tokens: Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_tokens)] = "auto"
    """Ceiling of a packed row in tokens, at least the longest item; auto: what fits, at most 16384; on a CPU 1024."""
    recompute: Literal["auto", "none", "full"] = "auto"
    """Layers recomputed in the backward pass. auto: as few as fit into the GPU's memory; none on a CPU."""
    offload: bool = False
    """Method full: fp32 weights, moments and gradients lie in host memory (20 to 24 bytes a parameter over all nodes),
    where the optimiser's step runs; the GPUs keep the weights that they compute with. For GPUs of 80 GB; slower."""
    kernels: Literal["auto", "reference"] = "auto"
    """reference: plain torch everywhere, for debugging."""
    checkpoint: Checkpoint = Checkpoint()
    """When state is saved."""
    max_skipped: int = Field(5, ge=0, le=1000)
    """Steps in a row that may be skipped because loss or gradient is no number. One more: back to the last checkpoint,
    once, without the items of these steps; the next time the run ends."""
    hang_after: Annotated[str, AfterValidator(_time)] = "10 min"
    """A step that takes longer than this, and 20 times longer than usual, hangs: all ranks' stacks go to the logs
    folder, and the attempt ends, to be started again."""
    log_every: int = Field(10, ge=1)
    """Steps between log lines."""
    generate: Generate = Generate()
    """Sample answers."""
    wandb: Wandb | None = None
    """null: off."""
    tensorboard: bool = False
    """Event files for TensorBoard in the run's folder, below tensorboard/. Needs the package:
    `pip install kctl[tensorboard]`; the image has it."""
