"""kctl cancel RUN: suspend it, so that its pods save and end; the run stays and a later submit resumes it."""

from datetime import UTC, datetime

from kctl import console
from kctl.run.find import located, view_of
from kctl.run.follow import detachable
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, RunArgument, where_flags
from kctl.run.page import KIND, next_command
from kctl.run.settle import BEYOND_GRACE, until_settled
from trainer.schema.contract import ANNOTATION_CANCELLED, Phase


def cancel(
    run: RunArgument,
    local: LocalOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Stop a run with time to save. Submit resumes it.

    \b
    Examples:
      kctl cancel lora_di3
      kctl cancel lora-di3-1e61e6eb -n research
    """
    backend, name = located(run, local, namespace, context)
    flags = where_flags(local, namespace, context)
    view = view_of(backend, name)
    if view.settled:
        console.say(f"run {name} has ended already ({view.phase}); {next_command(view, flags)}")
        return
    if not view.phase.finished:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        backend.suspend(name, {ANNOTATION_CANCELLED: now})
    if any(pod.active for pod in view.pods):
        console.say(f"stopping; its pods have up to {view.grace_seconds} s to save")
    with detachable(name, flags):
        ended = until_settled(backend, name, view.grace_seconds + BEYOND_GRACE, flags)
    if ended.phase is Phase.CANCELLED:
        console.data(f"{KIND}/{name} cancelled")
    else:
        console.say(f"run {name} had ended before it could be cancelled ({ended.phase})")
    console.say(f"next: {next_command(ended, flags)}")
