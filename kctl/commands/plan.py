"""kctl plan CONFIG: does it fit, how long, what does it cost, what trains, what should change. Nothing is submitted."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kctl.run.options import ConfigArgument, Output, OutputOption, SetOption
from trainer.schema.gpus import GPUS

if TYPE_CHECKING:
    from kctl.plan.estimate import Estimate
    from kctl.plan.question import Question

CompareOption = Annotated[
    str | None, typer.Option("--compare", metavar="A,B", help="Configs to put beside it, by commas.")
]
GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", help=f"Another card than the profile's: {', '.join(GPUS)}."),
]
NodesOption = Annotated[int | None, typer.Option("--nodes", min=1, max=100, help="Other nodes than the config's.")]
FitOption = Annotated[bool, typer.Option("--fit", help="On the fewest GPUs that it fits on.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help="Count and measure the items of this file.")
]
StatsOption = Annotated[
    Path | None,
    typer.Option("--stats", metavar="FILE", help="Lengths from kctl data stats -o json, or a run's data-report.json."),
]
ItemsOption = Annotated[int | None, typer.Option("--items", min=1, help="So many items, with --mean-tokens.")]
MeanOption = Annotated[float | None, typer.Option("--mean-tokens", min=1, help="Tokens of an item, on average.")]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="FOLDER|NAME", help="Sizes from FOLDER/config.json, or of a common model of that name."
    ),
]


def plan(
    config: ConfigArgument,
    sets: SetOption = None,
    compare: CompareOption = None,
    gpu: GpuOption = None,
    nodes: NodesOption = None,
    fit: FitOption = False,
    data: DataOption = None,
    stats: StatsOption = None,
    items: ItemsOption = None,
    mean_tokens: MeanOption = None,
    model: ModelOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what a run needs, takes and costs, and what it trains, before anything is submitted.

    \b
    Examples:
      kctl plan lora_di3 --items 72000 --mean-tokens 360
      kctl plan lora_di3_fast --compare lora_di3_best,full_di3 --gpu h200-141
    """
    import shutil

    from kctl import console
    from kctl.plan.estimate import estimate
    from kctl.plan.numbers import as_data
    from kctl.plan.page import screen, side_by_side
    from kctl.plan.question import Asked, question
    from kctl.run.page import structured

    asked = Asked(tuple(sets or ()), gpu, nodes, data, stats, items, mean_tokens, model).checked()
    names = [config, *filter(None, (compare or "").split(","))]
    questions = [question(name.strip(), asked) for name in names]
    found = [_fitting(one_of, gpu) if fit else estimate(one_of) for one_of in questions]
    if output is Output.NAME:
        console.data("\n".join(one_of.question.loaded.config.run for one_of in found))
    elif output is not Output.TABLE:
        values = [as_data(one_of) for one_of in found]
        console.data(structured(values if compare else values[0], output))
    elif compare:
        console.table(*side_by_side(found))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        console.data(screen(found[0], width))


def _fitting(asked: "Question", gpu: str | None) -> "Estimate":
    """On the fewest GPUs that fit, of the card that was named or of any."""
    from kctl.errors import KctlError, UsageError
    from kctl.plan.advice import smallest

    if asked.machine is None:
        raise UsageError(
            f"{asked.loaded.path}: runs on CPUs (cluster.gpus_per_node: 0): add --set cluster.gpus_per_node=1"
        )
    found = smallest(asked, [GPUS[gpu]] if gpu else list(GPUS.values()))
    if found is None:
        raise KctlError(f"{asked.loaded.path}: fits on none of {gpu or ', '.join(GPUS)}, up to 128 of them")
    return found
