"""From a config to the manifests of its run: values, templates, preflight."""

from typing import Any

from kctl.errors import KctlError

Manifest = dict[str, Any]
"""A Kubernetes object as JSON would have it."""


def the_job(manifests: list[Manifest]) -> Manifest:
    """The one PyTorchJob among rendered manifests."""
    jobs = [manifest for manifest in manifests if manifest.get("kind") == "PyTorchJob"]
    if len(jobs) != 1:
        raise KctlError(f"rendered {len(jobs)} PyTorchJobs instead of one: this is a bug in kctl, please report it")
    return jobs[0]
