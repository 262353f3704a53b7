"""kctl list: every run, newest last."""

from concurrent.futures import ThreadPoolExecutor

from kctl import console
from kctl.run.find import backend_of, listed, viewed
from kctl.run.logs import with_progress
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
    jobs = listed(backend)
    if not jobs and output is Output.TABLE:
        console.say(f"no runs {backend.where}")
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        views = list(pool.map(lambda job: with_progress(backend, viewed(backend, job)), jobs))
    print_list(views, output, backend.now())
