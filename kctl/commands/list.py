"""kctl list: every run, newest last."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from kctl import console
from kctl.run.find import all_viewed, backend_of
from kctl.run.logs import AT_A_GLANCE, with_progress
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, Output, OutputOption
from kctl.run.page import print_list


def list_runs(
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """List all runs with phase, step, loss and age.

    \b
    Examples:
      kctl list
      kctl list --local -o json
    """
    backend = backend_of("", local, namespace, context)
    views = all_viewed(backend)
    if not views and output is Output.TABLE:
        console.say(f"no runs {backend.where}")
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        views = list(pool.map(partial(with_progress, backend, recent=AT_A_GLANCE), views))
    print_list(views, output, backend.now())
