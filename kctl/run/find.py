"""From what a person types as RUN to a run, and a run as it is now.

RUN is a name, `@latest`, `@` and a tag, a config's name (the run that its content names, else the newest of that
name), or a unique prefix; in this order.
"""

import contextlib
import difflib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from kctl import console
from kctl.backends import open_backend
from kctl.backends.protocol import Backend
from kctl.backends.run_view import RunView, run_view, tags_of
from kctl.errors import KctlError, NotFound, Refused, UsageError
from kctl.manifest import Manifest
from kctl.run import names
from trainer.errors import TrainerError
from trainer.schema.contract import LABEL_CONFIG, Phase

_KIND = re.compile(r"pytorchjobs?(\.kubeflow\.org)?/")
"""Before a name in what `-o name` of kctl and kubectl print, so that it can be piped into the next verb."""
_AT_ONCE = 8


@dataclass(frozen=True)
class Known:
    """A run that exists, the name of the config it came from, and its tags."""

    run: str
    config: str
    tags: Sequence[str] = ()


def find_run(backend: Backend, text: str, local: bool) -> tuple[str, str]:
    """(run, note): the run that `text` means, and how it was found where it is not the exact name.

    UsageError where it is ambiguous, NotFound where there is none.
    """
    text = _KIND.sub("", text)
    if not text.startswith("@") and _is_name(text) and backend.get_job(text) is not None:
        names.remember_one(backend.where, text)
        return text, ""
    known = [
        Known(job["metadata"]["name"], (job["metadata"].get("labels") or {}).get(LABEL_CONFIG, ""), tags_of(job))
        for job in listed(backend)
    ]
    return choose(text, known, run_of_config(text), " --local" if local else "")


def listed(backend: Backend) -> list[Manifest]:
    """Every job that kctl made there, oldest first; their names and tags are kept for completion."""
    jobs = backend.list_jobs()
    tags = {f"@{tag}": None for job in jobs for tag in tags_of(job)}
    names.remember(backend.where, [*tags, *(job["metadata"]["name"] for job in jobs)])
    return jobs


def located(text: str, local: bool, namespace: str | None, context: str | None) -> tuple[Backend, str]:
    """(backend, run) that RUN means; on stderr what was taken where it is not the exact name."""
    backend = backend_of(text, local, namespace, context)
    run, note = find_run(backend, text, local)
    if note:
        console.say(note)
    return backend, run


def several(
    texts: Sequence[str], local: bool, namespace: str | None, context: str | None
) -> tuple[Backend, list[Manifest]]:
    """(backend, jobs) of several RUNs of one place, in the order given; on stderr as `located`.

    UsageError where two of them are the same run.
    """
    backend = backend_of(texts[0], local, namespace, context)
    jobs: list[Manifest] = []
    for text in texts:
        run, note = find_run(backend, text, local)
        if note:
            console.say(note)
        job = backend.get_job(run)
        if job is None:
            raise gone(run)
        if run in (one["metadata"]["name"] for one in jobs):
            raise UsageError(f"{text!r} is run {run}, which was named before: name another one")
        jobs.append(job)
    return backend, jobs


def backend_of(text: str, local: bool, namespace: str | None, context: str | None) -> Backend:
    """Where to look for runs: as for submit, the profile of the config that `text` names wins over the kube config;
    where it names none, the profile called default does."""
    if local:
        return open_backend(True, None, None, None)
    from kctl.config.run_config import load, load_profile

    try:
        profile = load(text, []).profile
    except (KctlError, TrainerError):
        profile = load_profile("default")
    return open_backend(False, namespace, context, profile)


def choose(text: str, known: Sequence[Known], content: str | None, flag: str = "") -> tuple[str, str]:
    """(run, note) among the known runs, oldest first; `content` is the run that config `text` names today."""
    there = [one.run for one in known]
    if text in there:
        return text, ""
    if text == "@latest":
        if not known:
            raise NotFound(f"no runs yet; start one with kctl submit CONFIG{flag}")
        return there[-1], f"{text} is {there[-1]}"
    if text.startswith("@"):
        tagged = [one.run for one in known if text[1:] in one.tags]
        if not tagged:
            tags = ", ".join(sorted({f"@{tag}" for one in known for tag in one.tags})[:10]) or "none"
            raise NotFound(f"no run has the tag {text[1:]!r}; there are: {tags}; set one: kctl adapters tag RUN TAG")
        return tagged[-1], f"{text} is {tagged[-1]}"
    if content in there:
        return str(content), f"config {text} is run {content}"
    of_config = [one.run for one in known if one.config and one.config == text.replace("_", "-").lower()]
    if of_config:
        return of_config[-1], f"the newest run of config {text} is {of_config[-1]}"
    begins = [name for name in there if text and name.startswith(text)]
    if len(begins) == 1:
        return begins[0], f"{text} is {begins[0]}"
    if begins:
        raise UsageError(f"{text!r} is ambiguous: {', '.join(begins[:10])}; write more of the name")
    if content is not None:
        raise NotFound(f"config {text} is run {content}, which was never submitted here; kctl submit {text}{flag}")
    near = difflib.get_close_matches(text, there, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise NotFound(f"no run {text!r}; {hint}see kctl list{flag}")


def run_of_config(text: str) -> str | None:
    """The run that config `text` names by its content today; None where `text` is no config that loads."""
    if text.startswith("@"):
        return None
    from kctl.config.run_config import load

    try:
        return load(text, []).config.run
    except (KctlError, TrainerError):
        return None


def viewed(backend: Backend, job: Manifest) -> RunView:
    """The run of `job` with its pods as they are now; where none could be made, with what the cluster says of that."""
    return _warned(backend, run_view(job, backend.list_pods(job["metadata"]["name"])))


def all_viewed(backend: Backend) -> list[RunView]:
    """`viewed` of every run, oldest first: the pods of all come together, since a call for each takes seconds."""
    backend.now()  # a backend that connects does so here, once
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        coming = pool.submit(backend.pods_by_run)
        jobs = listed(backend)
        pods = coming.result()
        views = [run_view(job, pods.get(job["metadata"]["name"], ())) for job in jobs]
        return list(pool.map(partial(_warned, backend), views))


def _warned(backend: Backend, view: RunView) -> RunView:
    if view.phase is not Phase.PENDING or view.pods or view.sentence:
        return view
    with contextlib.suppress(Refused):  # no right to read events: then it is not said
        return replace(view, sentence=backend.newest_warning(view.run, view.uid))
    return view


def look(backend: Backend, run: str) -> RunView | None:
    """The run as it is now; None where there is none of that name."""
    job = backend.get_job(run)
    return None if job is None else viewed(backend, job)


def view_of(backend: Backend, run: str) -> RunView:
    """The run as it is now; NotFound where it is gone."""
    view = look(backend, run)
    if view is None:
        raise gone(run)
    return view


def gone(run: str) -> NotFound:
    """The error for a run that was there a moment ago."""
    return NotFound(f"run {run} is gone: somebody deleted it; submit again to resume")


def _is_name(text: str) -> bool:
    return bool(text) and all(character.isalnum() or character == "-" for character in text)
