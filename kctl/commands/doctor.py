"""kctl doctor [CONFIG]: is this cluster ready, and what would a config hit there?"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from kctl import console
from kctl.errors import KctlError, UsageError
from kctl.manifest import the_job
from kctl.run.options import ContextOption, NamespaceOption, Output, OutputOption, SetOption
from kctl.run.page import structured
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from kctl.config.run_config import LoadedConfig
    from kctl.doctor.finding import Finding, Wanted


def doctor(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="A config's name or path: what would it run into?")
    ] = None,
    sets: SetOption = None,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Check a cluster, and what a config would run into there, in the order in which one sets it up.

    The exit code is that of the first failure.

    \b
    Examples:
      kctl doctor
      kctl doctor lora_di3 -n research -o json
    """
    from kctl.backends import open_cluster
    from kctl.backends.survey import Questions
    from kctl.config.run_config import load_or_standard
    from kctl.doctor.rights import asked
    from kctl.doctor.table import exit_code, findings

    loaded = load_or_standard(config, sets or [])
    wanted, own = _wanted(loaded, namespace, config is not None)
    queue = loaded.profile.queue
    questions = Questions(
        asked(queue.kind), wanted.job, loaded.profile.image, (queue.kind, queue.name), wanted.secret_names
    )
    cluster = open_cluster(namespace, context, loaded.profile)
    told = [*own, *findings(cluster.survey(questions), wanted)]
    if output is Output.NAME:
        console.data("\n".join(f"{one.state} {one.check}" for one in told))
    elif output is not Output.TABLE:
        console.data(structured([asdict(one) for one in told], output))
    else:
        console.table(("CHECK", "", "FOUND"), [(one.check, str(one.state), _told(one)) for one in told])
    code = exit_code(told)
    console.say(f"{cluster.where}: {_count(told)}{'; do what the first one says, then look again' if code else ''}")
    if code:
        raise typer.Exit(code)


def _wanted(loaded: "LoadedConfig", namespace: str | None, named: bool) -> "tuple[Wanted, list[Finding]]":
    """What is wanted of the cluster, and what the config itself runs into."""
    from kctl.doctor.finding import Wanted, fail, ok, warn
    from kctl.manifest.render import render

    name, nodes = loaded.config.cluster.profile, loaded.config.cluster.nodes
    try:
        rendered = render(loaded.config, loaded.profile, namespace)
    except (KctlError, ConfigError) as error:
        remedy = "correct the config or its profile"
        return Wanted(loaded.profile, name, nodes, None), [fail("config", str(error), remedy, UsageError)]
    image = f"image {loaded.profile.image} "  # the check of the image knows more
    warnings = [text for text in rendered.warnings if not text.startswith(image)]
    told = [warn("config", text, f"change it in {loaded.path.name} or in profile {name}") for text in warnings]
    if named:
        told.insert(0, ok("config", f"{loaded.path} is run {rendered.run}"))
    return Wanted(loaded.profile, name, nodes, the_job(rendered.manifests)), told


def _told(finding: "Finding") -> str:
    return f"{finding.found}; next: {finding.next}" if finding.next else finding.found


def _count(told: "list[Finding]") -> str:
    from kctl.doctor.finding import State

    numbers = {state: sum(one.state is state for one in told) for state in State}
    return f"{numbers[State.FAIL]} failed, {numbers[State.WARN]} to look at, {numbers[State.OK]} well"
