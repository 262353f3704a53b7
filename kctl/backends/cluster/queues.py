"""Where the APIs of queues are: Kueue's version is the cluster's, Volcano has one."""

from kctl.backends.cluster.api import MANAGER, Api
from kctl.errors import NotFound

KUEUE = "/apis/kueue.x-k8s.io"
VOLCANO = "/apis/scheduling.volcano.sh/v1beta1"
LABEL_JOB_UID = "kueue.x-k8s.io/job-uid"
"""On a Workload: whose it is."""


def kueue_path(api: Api, namespace: str, plural: str) -> str:
    """Path of Kueue's objects in a namespace. NotFound where there is no Kueue."""
    version = api.get("look for Kueue", KUEUE)["preferredVersion"]["groupVersion"]
    return f"/apis/{version}/namespaces/{namespace}/{plural}"


def deactivate_workloads(api: Api, namespace: str, run: str, uid: str) -> None:
    """Tell Kueue that a job is suspended: it would take that back as long as its Workload is active."""
    try:
        base = kueue_path(api, namespace, "workloads")
    except NotFound:
        return
    action = f"deactivate the Workload of {run}"
    for workload in api.get(action, base, {"labelSelector": f"{LABEL_JOB_UID}={uid}"}).get("items", []):
        path = f"{base}/{workload['metadata']['name']}"
        api.merge_patch(action, path, {"spec": {"active": False}}, MANAGER)
