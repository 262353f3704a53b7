"""From a config to the manifests of its run: values, templates, preflight."""

from typing import Any

from kctl.errors import KctlError
from trainer.schema.contract import CONTAINER

Manifest = dict[str, Any]
"""A Kubernetes object as JSON would have it."""

LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's, on a job or a pod: its queue."""


def the_job(manifests: list[Manifest]) -> Manifest:
    """The one PyTorchJob among rendered manifests."""
    jobs = [manifest for manifest in manifests if manifest.get("kind") == "PyTorchJob"]
    if len(jobs) != 1:
        raise KctlError(f"rendered {len(jobs)} PyTorchJobs instead of one: this is a bug in kctl, please report it")
    return jobs[0]


def pod_of(job: Manifest) -> Manifest:
    """The spec of a job's pods, by its template; empty where it has none."""
    return template_of(job).get("spec") or {}


def template_of(job: Manifest) -> Manifest:
    """The template of a job's pods; empty where it has none."""
    replicas = ((job.get("spec") or {}).get("pytorchReplicaSpecs") or {}).values()
    return next((one.get("template") or {} for one in replicas), {})


def requests_of(pod: Manifest) -> dict[str, str]:
    """What a pod's trainer asks for: resource -> quantity; a limit alone is a request, too."""
    containers = [one for one in pod.get("containers") or [] if one.get("name") == CONTAINER]
    resources = next((one.get("resources") or {} for one in containers), {})
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def config_map_of(job: Manifest) -> str | None:
    """Name of the ConfigMap that the job's pods mount; None where they mount none."""
    for replica in ((job.get("spec") or {}).get("pytorchReplicaSpecs") or {}).values():
        for volume in ((replica.get("template") or {}).get("spec") or {}).get("volumes") or []:
            if name := (volume.get("configMap") or {}).get("name"):
                return str(name)
    return None
