"""Where the APIs of queues are: Kueue's version is the cluster's, Volcano has one."""

from kctl.backends.cluster.api import Api

KUEUE = "/apis/kueue.x-k8s.io"
VOLCANO = "/apis/scheduling.volcano.sh/v1beta1"
LABEL_JOB_UID = "kueue.x-k8s.io/job-uid"
"""On a Workload: whose it is."""


def kueue_path(api: Api, namespace: str, plural: str) -> str:
    """Path of Kueue's objects in a namespace. NotFound where there is no Kueue."""
    version = api.get("look for Kueue", KUEUE)["preferredVersion"]["groupVersion"]
    return f"/apis/{version}/namespaces/{namespace}/{plural}"
