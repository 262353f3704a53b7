"""Starting a run: what `kctl.run.submit.decide` says, done; looked up again where somebody else was faster."""

from kctl import console
from kctl.backends.protocol import Backend
from kctl.errors import AlreadyExists, KctlError, Refused
from kctl.manifest import Manifest, the_job
from kctl.run import names
from kctl.run.find import look
from kctl.run.settle import BEYOND_GRACE
from kctl.run.submit import Decision, decide, manifest_sha256

_TRIES = 5


def start(backend: Backend, manifests: list[Manifest], flags: str) -> Decision:
    """Create the run, or say on stderr why there is nothing to create. Refused where another manifest is at work."""
    job = the_job(manifests)
    run = job["metadata"]["name"]
    for _ in range(_TRIES):
        existing = look(backend, run)
        decision = decide(existing, manifest_sha256(job))
        if decision is Decision.DONE:
            console.say(f"run {run} has succeeded already, nothing to do; kctl pull {run}{flags}")
            return decision
        if decision is Decision.REFUSE:
            raise Refused(f"run {run} is active with another manifest; first: kctl cancel {run}{flags}")
        if decision is Decision.ACTIVE:
            phase = existing.phase if existing else ""
            console.say(f"run {run} is already active ({phase}), nothing to do")
            return decision
        if existing is not None:
            console.say(f"run {run} has ended ({existing.phase}): it is created again and resumes")
            backend.delete(run, existing.grace_seconds + BEYOND_GRACE, existing.uid)
        try:
            backend.create(manifests)
        except AlreadyExists:
            continue
        names.remember_one(backend.where, run)
        return decision
    raise KctlError(f"run {run}: others create and delete it at this moment; look with kctl status {run}{flags}")


def dry_run(backend: Backend, manifests: list[Manifest]) -> str:
    """What start would do, in words, after the server has checked what would be created."""
    job = the_job(manifests)
    decision = decide(look(backend, job["metadata"]["name"]), manifest_sha256(job))
    if decision is Decision.CREATE:
        backend.create(manifests, dry_run=True)
    words = {
        Decision.CREATE: "created",
        Decision.RECREATE: "deleted and created again",
        Decision.ACTIVE: "unchanged: it is active",
        Decision.REFUSE: "refused: it is active with another manifest",
        Decision.DONE: "unchanged: it has succeeded",
    }
    return f"{words[decision]} (server dry run)"
