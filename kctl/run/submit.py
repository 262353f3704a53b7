"""What a submit does, given what is there already. Pure: no clock, no cluster.

Creates or says why not; nothing that exists is ever changed. The comparison is the annotation with the
manifest's sha256, never the live spec: queues and admission write into that.
"""

from enum import StrEnum

from kctl.backends.run_view import RunView
from kctl.errors import KctlError
from kctl.manifest import Manifest
from trainer.schema.contract import ANNOTATION_MANIFEST, Phase


class Decision(StrEnum):
    """What to do with a run that somebody wants to submit."""

    CREATE = "create"
    RECREATE = "recreate"
    """It failed or was cancelled: delete it, wait, create it; the trainer resumes from its checkpoint."""
    ACTIVE = "active"
    """The same manifest is at work: nothing to do."""
    REFUSE = "refuse"
    """It is at work with another manifest: cancel first."""
    DONE = "done"
    """It succeeded: nothing is created, the adapter can be pulled."""


def decide(existing: RunView | None, manifest_sha256: str) -> Decision:
    """By the phase of the run that is there, and whether it has the manifest that would be submitted."""
    if existing is None:
        return Decision.CREATE
    if existing.phase is Phase.SUCCEEDED:
        return Decision.DONE
    if existing.deleting or existing.phase in (Phase.FAILED, Phase.CANCELLED):
        return Decision.RECREATE
    return Decision.ACTIVE if existing.manifest_sha256 == manifest_sha256 else Decision.REFUSE


def manifest_sha256(job: Manifest) -> str:
    """The digest that the renderer wrote on the job."""
    digest = (job["metadata"].get("annotations") or {}).get(ANNOTATION_MANIFEST)
    if not isinstance(digest, str) or not digest:
        raise KctlError(
            f"job {job['metadata']['name']} carries no annotation {ANNOTATION_MANIFEST}: render it with kctl"
        )
    return digest
