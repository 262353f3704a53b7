"""kctl list: every run, newest last."""

from concurrent.futures import ThreadPoolExecutor

from kctl import console
from kctl.backends.protocol import Backend, Manifest
from kctl.run.find import backend_of
from kctl.run.job import Job, job_view
from kctl.run.logs import with_progress
from kctl.run.options import ContextOption, LocalOption, NamespaceOption, Output, OutputOption
from kctl.run.view import print_list


def list_runs(
    local: LocalOption = False,
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """List all runs with phase, step, loss and age."""
    backend = backend_of("", local, namespace, context)
    jobs = backend.list_jobs()
    if not jobs and output is Output.TABLE:
        console.say(f"no runs {backend.where}")
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        views = list(pool.map(lambda job: _view(backend, job), jobs))
    print_list(views, output)


def _view(backend: Backend, job: Manifest) -> Job:
    return with_progress(backend, job_view(job, backend.list_pods(job["metadata"]["name"])))
