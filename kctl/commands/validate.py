"""kctl validate: is a config complete and right, and what would it train?"""

from typing import TYPE_CHECKING

import typer

from kctl.run.options import ConfigsArgument, SetOption

if TYPE_CHECKING:
    from kctl.config.run_config import RunConfig


def validate(
    configs: ConfigsArgument,
    sets: SetOption = None,
) -> None:
    """Check run configs without a cluster; print the run's name, its ranks, steps and trained parameters.

    \b
    Examples:
      kctl validate lora_di3
      kctl validate lora_di3 full_di3 --set cluster.gpus_per_node=4
    """
    from kctl import console
    from kctl.config.run_config import load
    from kctl.errors import KctlError
    from kctl.manifest.render import render
    from trainer.errors import ConfigError

    failed: list[str] = []
    code = 0
    for argument in configs:
        try:
            loaded = load(argument, sets or [])
            rendered = render(loaded.config, loaded.profile, None)
        except (KctlError, ConfigError) as error:
            console.error(str(error))
            failed.append(argument)
            code = code or (error.exit_code if isinstance(error, KctlError) else 2)
            continue
        for warning in rendered.warnings:
            console.warn(f"{loaded.path}: {warning}")
        console.data(summary(loaded.config))
    if failed:
        raise typer.Exit(code)


def summary(config: "RunConfig") -> str:
    """One line: run, ranks, batch arithmetic, and the trained parameters by family where the model is known."""
    train, ranks = config.train, config.cluster.ranks
    share = train.global_batch_size / ranks
    batch = f"{train.global_batch_size} items a step ({share:g} a rank)"
    length = f"at most {train.max_steps} steps" if train.max_steps else f"{train.epochs} epochs"
    plural = "rank" if ranks == 1 else "ranks"
    return "  ".join([config.run, f"{ranks} {plural}", batch, length, trained(config)])


def trained(config: "RunConfig") -> str:
    """`368.1 M trained (attention 53.5 M, experts 314.6 M)`, or that the model's shape is not known here."""
    from trainer.schema.parameters import lora_parameters, total_parameters

    shape, lora = config.shape, config.train.lora
    if shape is None:
        return "trained parameters: the trainer says, this model is not known to kctl"
    if lora is None:
        return f"{millions(total_parameters(shape))} trained (every parameter)"
    found = lora_parameters(shape, lora)
    families = ", ".join(f"{family.replace('_', ' ')} {millions(count)}" for family, count in found.items())
    return f"{millions(sum(found.values()))} trained ({families})"


def millions(count: int) -> str:
    """A count in millions with one decimal and a thousands separator: 30,532.1 M."""
    return f"{count / 1e6:,.1f} M"
