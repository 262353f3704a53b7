"""Where each cause of kctl.explain was met: made by tests on real clusters and processes, or words read in a source."""

WAITING = (
    *("image-absent", "image-name", "registry-away", "pull-secret-absent", "runs-as-root"),
    *("secret-absent", "secret-key-absent", "config-map-absent"),
    *("claim-absent", "claim-no-class", "claim-class-absent", "claim-unbound", "claim-ends", "claim-lost"),
    *("volume-elsewhere", "mount-failed", "selector", "taint"),
    *("nodes-cordoned", "nodes-not-ready", "resource-nowhere", "resource-too-large", "resource-busy"),
    *("scheduling-gate", "scheduler-silent", "priority-class", "service-account", "runtime-class"),
    *("pod-security", "pod-invalid", "webhook-away", "policy", "suspended", "cancelled", "deleting"),
)
"""Runs that wait on a real cluster, each for its own reason: tests/cluster/explain_scenes.py."""
MADE = {
    "tests/cluster/test_pods_explained.py": (
        *("quota", "quota-unstated", "limit-range", "managed-elsewhere", "data-absent", "model-absent"),
        *("not-the-image", "training", "restarted", "drained", "volume-full"),
    ),
    "tests/cli/test_local_explain.py": ("supervisor-gone", "not-the-trainers-image", "ended"),
}
"""Test -> causes that it makes by acting on objects, processes and disks."""
READ = {
    "tests/cluster/statuses": ("operator-silent", "failed", "succeeded"),
    "Kueue 0.19, apis/kueue/v1beta2/workload_types.go; older messages: its documentation and issues": (
        *("queue-silent", "queue-ignored", "queue-deactivated", "queue-absent", "queue-inactive", "queue-stopped"),
        *("queue-too-large", "queue-uncounted", "queue-no-flavor", "queue-topology", "queue-preempted"),
        *("queue-slow-start", "queue-checks", "queue-waits", "queued"),
    ),
    "Kubernetes 1.34.4, k8s.io/apiserver/pkg/admission": ("webhook-denied", "namespace-ends", "operator-rights"),
    "Kubernetes 1.34.4, pkg/controller/volume": (
        *("claim-not-provisioned", "claim-mismatch", "multi-attach", "attach-failed"),
    ),
    "Kubernetes 1.34.4, pkg/scheduler/framework/plugins": (
        *("volume-in-use", "volumes-per-node", "pods-per-node", "nodes-under-pressure", "affinity", "no-nodes"),
        *("unplaced", "resource-short"),
    ),
    "Kubernetes 1.34.4, pkg/kubelet": (
        *("evicted", "shm-full", "local-storage", "device-not-given", "node-refused", "node-shut-down", "sub-path"),
        *("config-error", "create-error", "sandbox", "init-container", "image-pulling", "starting", "half-started"),
        *("out-of-host-memory", "killed", "crashed", "not-a-program", "wrong-platform", "stuck-ending", "pods-left"),
    ),
    "Kubernetes 1.34.4, api/core/v1/types.go, reasons of DisruptionTarget": ("preempted", "node-lost", "node-away"),
    "containerd, errors of a pull": (
        *("image-rate", "image-denied", "image-certificate", "image-platform", "image-disk", "image-not-pulled"),
    ),
    "Volcano, status of a PodGroup": ("gang-waits", "gang-absent"),
    "training operator 1.9.4, pkg/controller.v1/common": (
        "deadline",
        "backoff-limit",
        "pods-refused",
    ),
    "trainer, launch.py, pod/, state.py, hang.py, guards.py, errors.py": (
        *("other-version", "config", "data", "out-of-gpu-memory", "diverged", "checkpoint", "runs-folder", "attempts"),
        *("time-limit", "owner-lost", "told-to-stop", "peer-lost", "device", "rendezvous", "hanging", "unknown"),
        *("quiet", "hang-noticed", "waits-for-owner", "waits-after-failure", "step-without-number"),
        *("no-room-for-checkpoints", "checkpoint-failed", "slow-volume", "damaged-checkpoint", "smaller-plan"),
        *("overfitting", "before-the-first-step"),
    ),
    "trainer, startup.py, its first line: over NET/Socket": ("slow-network",),
}
"""Source -> causes whose words were taken from it; their runs in explain_examples.py are written after it."""
