"""The table: which causes are looked for in which phase, the one that explains most first."""

from kctl.backends.facts import Facts
from kctl.explain.cause import Cause, Found, found
from kctl.explain.claims import CLAIMS
from kctl.explain.ending import SAID
from kctl.explain.placing import PLACING
from kctl.explain.queueing import JOB, LAST_OF_QUEUE, QUEUE
from kctl.explain.refusing import REFUSED
from kctl.explain.running import DONE, RUNNING, STATE
from kctl.explain.starting import IMAGE, STARTING
from kctl.explain.taking import LEFT, TAKEN
from trainer.schema.contract import Phase

_NO_PODS = (*JOB, *QUEUE, *REFUSED)
_NOT_STARTED = (*CLAIMS, *PLACING, *IMAGE, *STARTING)

CAUSES: dict[Phase, tuple[Cause, ...]] = {
    Phase.QUEUED: (*JOB, *QUEUE, *LAST_OF_QUEUE),
    Phase.PENDING: (*_NO_PODS, *TAKEN, *_NOT_STARTED),
    Phase.RESTARTING: (*_NO_PODS, *TAKEN, *_NOT_STARTED, *SAID),
    Phase.RUNNING: (*JOB, *TAKEN, *RUNNING, *QUEUE, *STATE),
    Phase.FAILED: (*TAKEN, *SAID, *LEFT),
    Phase.CANCELLED: (*TAKEN, *LEFT, *JOB),
    Phase.SUCCEEDED: (*JOB, *LEFT, *DONE),
}
"""Phase of the run -> the causes that can explain it."""

GENERAL = {
    "pods-refused": {one.name for one in REFUSED},
    "unplaced": {one.name for one in (*CLAIMS, *PLACING)},
    "claim-unbound": {one.name for one in CLAIMS},
    "claim-not-provisioned": {"claim-class-absent"},
    "claim-mismatch": {"claim-no-class"},
    "operator-silent": {"managed-elsewhere"},
    "queue-inactive": {"queue-absent"},
    "queue-waits": {one.name for one in QUEUE},
    "queued": {one.name for one in QUEUE},
    "image-not-pulled": {one.name for one in IMAGE},
    "config-error": {"secret-absent", "secret-key-absent", "config-map-absent", "sub-path", "runs-as-root"},
    "create-error": {"not-the-image"},
    "mount-failed": {"config-map-absent", "secret-absent", "sub-path"},
    "attach-failed": {"multi-attach"},
    "config": {"other-version", "model-absent"},
    "data": {"data-absent"},
    "runs-folder": {"volume-full"},
    "killed": {one.name for one in TAKEN} | {"supervisor-gone", "deadline", "backoff-limit"},
    "unknown": {one.name for one in TAKEN},
    "ended": {one.name for one in (*TAKEN, *SAID)} - {"ended", "failed"},
    "failed": {one.name for one in (*TAKEN, *SAID)} - {"failed"},
    "training": {one.name for one in RUNNING},
    "before-the-first-step": {one.name for one in RUNNING},
    "starting": {one.name for one in (*IMAGE, *STARTING)},
}
"""A cause that says less -> those that make it superfluous."""


def explained(facts: Facts, flags: str, resume: str) -> tuple[Found, ...]:
    """All causes that the facts show, the one that explains most first; empty where the table knows none.

    `flags`: what a kctl command needs to mean the same place; `resume`: the command that takes the run up again.
    """
    seen = [one for cause in CAUSES[facts.view.phase] if (one := found(cause, facts, flags, resume)) is not None]
    names = {one.name for one in seen}
    return tuple(one for one in seen if not (names - {one.name}) & GENERAL.get(one.name, set()))
