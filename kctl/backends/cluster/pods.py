"""The pods of all runs at once: of a thousand of them only what a view of a run is made of is kept."""

from kctl.backends.cluster.api import Api
from kctl.manifest import Manifest
from trainer.schema.contract import LABEL_JOB_NAME


def by_run(api: Api, pods_path: str) -> dict[str, list[Manifest]]:
    """Run -> its pods with metadata and status, by name as the server lists them."""
    found: dict[str, list[Manifest]] = {}
    for pod in api.pages("list pods", pods_path, {"labelSelector": LABEL_JOB_NAME}):
        metadata = pod["metadata"]
        metadata.pop("managedFields", None)  # half of a pod
        kept = {"metadata": metadata, "status": pod.get("status") or {}}
        found.setdefault(metadata["labels"][LABEL_JOB_NAME], []).append(kept)
    return found
