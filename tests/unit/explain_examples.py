"""One run for each cause of kctl.explain.table: cause -> facts that show it first of all."""

from kctl.backends.facts import Facts
from tests.unit.explain_world import (
    BOUND,
    NOW,
    QUEUE,
    RUN,
    STEP,
    again,
    ago,
    cancelled,
    claim,
    disrupted,
    ended,
    event,
    job,
    kubelet,
    node,
    pod,
    queued,
    refused,
    running,
    taken,
    unbound,
    unplaced,
    waits,
)

_OFF = "0/1 nodes are available: "
_GPU = _OFF + "1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: 1 No preemption victims found."
_VOLCANO = {"pod": {"schedulerName": "volcano"}}
_FLAVORS = "couldn't assign flavors to pod set master: "
_PULL = 'Failed to pull image "registry.example.com/kctl/trainer:0.1.0": rpc error: code = {}'

JOB = {
    "deleting": Facts(
        NOW, job("Created", metadata={"deletionTimestamp": ago(100), "finalizers": ["foregroundDeletion"]})
    ),
    "cancelled": cancelled(),
    "managed-elsewhere": Facts(NOW, job(runPolicy={"managedBy": "kueue.x-k8s.io/multikueue"})),
    "operator-silent": Facts(NOW, job()),
    "suspended": Facts(NOW, job("Created", "Suspended", runPolicy={"suspend": True})),
    "queue-silent": Facts(NOW, job("Created", "Suspended", labels=QUEUE, runPolicy={"suspend": True}), workloads=()),
    "queue-ignored": Facts(NOW, job("Created", labels=QUEUE), workloads=()),
    "queue-deactivated": queued("Evicted", "True", "DeactivatedDueToRequeuingLimitExceeded", "exceeded the maximum"),
    "queue-absent": queued("QuotaReserved", "False", "Inadmissible", "LocalQueue gpu doesn't exist"),
    "queue-inactive": queued("QuotaReserved", "False", "Inadmissible", "ClusterQueue gpu is inactive"),
    "queue-stopped": queued("Evicted", "True", "ClusterQueueStopped", "The ClusterQueue is stopped"),
    "queue-too-large": queued(
        "QuotaReserved",
        "False",
        "Pending",
        _FLAVORS + "insufficient quota for nvidia.com/gpu in flavor h100, request > maximum capacity (16 > 8)",
    ),
    "queue-uncounted": queued(
        "QuotaReserved", "False", "Pending", _FLAVORS + "resource memory unavailable in ClusterQueue"
    ),
    "queue-no-flavor": queued(
        "QuotaReserved", "False", "NoMatchingFlavor", _FLAVORS + "flavor h100 doesn't match node affinity"
    ),
    "queue-topology": queued(
        "QuotaReserved", "False", "TopologyPlacementFailed", 'topology "rack" allows to fit only 1 out of 2 pod(s)'
    ),
    "queue-preempted": queued("Evicted", "True", "Preempted", "Preempted to accommodate a workload of higher priority"),
    "queue-slow-start": queued("Evicted", "True", "PodsReadyTimeout", "Exceeded the PodsReady timeout"),
    "queue-checks": queued("Admitted", "False", "UnsatisfiedAdmissionChecks", "The workload has failed checks"),
    "queue-waits": queued(
        "QuotaReserved",
        "False",
        "Pending",
        _FLAVORS + "insufficient unused quota for nvidia.com/gpu in flavor h100, 8 more needed",
    ),
    "queued": Facts(NOW, job("Created", "Suspended", labels=QUEUE, age=5, runPolicy={"suspend": True}), workloads=()),
}

REFUSED = {
    "quota": refused(
        "exceeded quota: team, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=16, "
        "limited: requests.nvidia.com/gpu=16"
    ),
    "quota-unstated": refused("failed quota: team: must specify limits.cpu for: pytorch"),
    "limit-range": refused("maximum memory usage per Container is 1Gi, but limit is 400Gi"),
    "pod-security": refused(
        'violates PodSecurity "restricted:latest": hostPath volumes (volume "x"), runAsNonRoot != true'
    ),
    "policy": refused("ValidatingAdmissionPolicy 'no-gpus' with binding 'no-gpus' denied request: not before Monday"),
    "webhook-denied": refused('admission webhook "images.example.com" denied the request: unsigned image'),
    "webhook-away": refused(
        'Internal error occurred: failed calling webhook "pods.example.com": failed to call webhook: connection refused'
    ),
    "priority-class": refused("no PriorityClass with name kctl-high was found"),
    "service-account": refused('error looking up service account team/default: serviceaccount "default" not found'),
    "runtime-class": refused('pod rejected: RuntimeClass "nvidia" not found'),
    "namespace-ends": refused("unable to create new content in namespace team because it is being terminated"),
    "operator-rights": refused(
        'User "system:serviceaccount:kubeflow:training-operator" cannot create resource "pods" in API group "" in the '
        'namespace "team"'
    ),
    "pod-invalid": refused(f'Pod "{RUN}-master-0" is invalid: spec.containers[0].image: Required value'),
    "pods-refused": refused("nobody knows why"),
}

CLAIMS = {
    "claim-absent": unplaced(_OFF + 'persistentvolumeclaim "later" not found. preemption: not helpful'),
    "claim-ends": unplaced(_OFF + 'persistentvolumeclaim "data" is being deleted.'),
    "claim-lost": unplaced("running PreBind plugin", "SchedulerError", claims=(*BOUND, claim("Lost"))),
    "claim-no-class": unbound(
        "FailedBinding", "no persistent volumes available for this claim and no storage class is set"
    ),
    "claim-class-absent": unbound("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found'),
    "claim-not-provisioned": unbound(
        "ProvisioningFailed", "rpc error: code = ResourceExhausted desc = out of capacity"
    ),
    "claim-mismatch": unbound("VolumeMismatch", 'Cannot bind to requested volume "v": requested PV is too small'),
    "claim-unbound": unplaced(_OFF + "pod has unbound immediate PersistentVolumeClaims. not found", claims=None),
    "volume-elsewhere": unplaced(_OFF + "1 node(s) didn't match PersistentVolume's node affinity."),
    "volume-in-use": unplaced(
        _OFF + "1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by "
        "another pod."
    ),
    "volumes-per-node": unplaced(_OFF + "1 node(s) exceed max volume count."),
}

PLACING = {
    "gang-waits": Facts(
        NOW,
        job("Created", **_VOLCANO),
        pod_group={
            "status": {"phase": "Pending", "conditions": [{"type": "Unschedulable", "message": "2/2 tasks in gang"}]}
        },
    ),
    "gang-absent": Facts(NOW, job("Created", **_VOLCANO)),
    "resource-nowhere": unplaced(_GPU, nodes=(node(cpu="64"),)),
    "resource-too-large": unplaced(_GPU, nodes=(node(cpu="64", gpu="4"), node("n2", gpu="2"))),
    "resource-busy": unplaced(_GPU, nodes=(node(cpu="64", gpu="8"),)),
    "resource-short": unplaced(_GPU),
    "pods-per-node": unplaced(_OFF + "1 Too many pods."),
    "selector": unplaced(_OFF + "1 node(s) didn't match Pod's node affinity/selector. preemption: not helpful"),
    "nodes-not-ready": unplaced(_OFF + "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."),
    "nodes-under-pressure": unplaced(_OFF + "1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }."),
    "nodes-cordoned": unplaced(_OFF + "1 node(s) were unschedulable."),
    "taint": unplaced(_OFF + "1 node(s) had untolerated taint {team: vision}."),
    "affinity": unplaced(_OFF + "1 node(s) didn't match pod anti-affinity rules."),
    "scheduling-gate": unplaced("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated"),
    "no-nodes": unplaced("no nodes available to schedule pods"),
    "scheduler-silent": Facts(NOW, job("Created"), (pod(spec={"schedulerName": "volcano"}),)),
    "unplaced": unplaced(_OFF + "1 node(s) had unknown conditions."),
}

STARTING = {
    "image-name": waits("InvalidImageName", 'Failed to apply default image tag "A B": couldn\'t parse image name'),
    "image-absent": waits(
        "ImagePullBackOff",
        'Back-off pulling image "x": ErrImagePull: ' + _PULL.format("NotFound desc = trainer:0.1.0: not found"),
    ),
    "image-rate": waits("ErrImagePull", _PULL.format("Unknown desc = unexpected status: 429 Too Many Requests")),
    "image-denied": waits(
        "ErrImagePull", _PULL.format("Unknown desc = failed to authorize: unexpected status: 401 Unauthorized")
    ),
    "image-certificate": waits(
        "ErrImagePull", _PULL.format("Unknown desc = tls: x509: certificate signed by unknown authority")
    ),
    "image-platform": waits("ErrImagePull", _PULL.format("Unknown desc = no match for platform in manifest")),
    "image-disk": waits("ErrImagePull", _PULL.format("Unknown desc = write /var: no space left on device")),
    "registry-away": waits("ErrImagePull", _PULL.format("Unavailable desc = dial tcp 10.0.0.9:443: i/o timeout")),
    "image-not-pulled": waits("ErrImagePull", _PULL.format("Unknown desc = something new")),
    "pull-secret-absent": kubelet(
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (regcred); attempting to pull the image may not succeed.",
    ),
    "secret-absent": waits("CreateContainerConfigError", 'secret "hub" not found'),
    "secret-key-absent": waits("CreateContainerConfigError", "couldn't find key token in Secret team/hub"),
    "config-map-absent": kubelet(
        "FailedMount", f'MountVolume.SetUp failed for volume "config" : configmap "{RUN}-abc123" not found'
    ),
    "multi-attach": kubelet(
        "FailedAttachVolume",
        'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node and can\'t be '
        "attached to another",
    ),
    "attach-failed": kubelet("FailedAttachVolume", "AttachVolume.Attach failed for volume x: timed out"),
    "sub-path": waits(
        "CreateContainerConfigError", 'failed to prepare subPath for volumeMount "data" of container "pytorch"'
    ),
    "mount-failed": kubelet(
        "FailedMount", 'MountVolume.SetUp failed for volume "runs" : mount.nfs: Connection refused'
    ),
    "runs-as-root": waits(
        "CreateContainerConfigError",
        "container has runAsNonRoot and image will run as root (pod: x, container: pytorch)",
    ),
    "config-error": waits("CreateContainerConfigError", "something new"),
    "not-the-image": waits(
        "RunContainerError",
        'failed to create containerd task: runc create failed: exec: "tini": executable file not found in $PATH',
    ),
    "create-error": waits("CreateContainerError", "failed to reserve container name"),
    "sandbox": kubelet("FailedCreatePodSandBox", "Failed to create pod sandbox: plugin type calico failed (add)"),
    "init-container": waits("CrashLoopBackOff", "back-off 10s restarting failed container=sidecar"),
    "image-pulling": waits(
        "ContainerCreating", "", event("Pulling", 'Pulling image "registry.example.com/kctl/trainer:0.1.0"', age=90)
    ),
    "half-started": Facts(
        NOW, job("Created", nodes=2), (pod("Running", {"running": {"startedAt": ago(60)}}), pod(index=1, age=20))
    ),
    "starting": waits("ContainerCreating"),
}

TAKEN = {
    "node-away": running(STEP, pod={"spec": {"nodeName": "n1"}}, nodes=(node(ready="Unknown"),)),
    "out-of-host-memory": taken(state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
    "shm-full": taken(reason="Evicted", message='Usage of EmptyDir volume "shm" exceeds the limit "32Gi". '),
    "local-storage": taken(
        reason="Evicted", message="Pod ephemeral local storage usage exceeds the total limit of containers 64Mi. "
    ),
    "evicted": taken(
        reason="Evicted", message="The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. "
    ),
    "preempted": disrupted("PreemptionByScheduler"),
    "drained": disrupted("EvictionByEvictionAPI"),
    "node-lost": disrupted("DeletionByTaintManager"),
    "node-shut-down": disrupted("TerminationByKubelet"),
    "device-not-given": taken(
        reason="UnexpectedAdmissionError",
        message="Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate",
    ),
    "node-refused": taken(reason="OutOfcpu", message="Pod was rejected: Node didn't have enough resource: cpu"),
    "stuck-ending": cancelled((pod("Running", metadata={"deletionTimestamp": ago(400)}),)),
    "pods-left": Facts(NOW, job("Created", "Succeeded"), (pod("Running", {"running": {}}, index=1),)),
}

_NO_MODULE = "ModuleNotFoundError: No module named 'trainer'"
SAID = {
    "supervisor-gone": ended(137, operator="the supervisor is gone; submit again to resume"),
    "deadline": ended(137, operator=f"Job {RUN} has failed because it was active longer than specified deadline"),
    "backoff-limit": ended(137, operator=f"Job {RUN} has failed because it has reached the specified backoff limit"),
    "other-version": ended(2, "/etc/kctl/config.json: run 'a-1' is not the name: kctl and this image disagree"),
    "model-absent": ended(2, "/models/x: no such model folder: copy the model there, or correct train.model.path"),
    "config": ended(2, "environment: PET_NNODES must be a plain number"),
    "data-absent": ended(3, "/data/train.json: no such file: copy it to the data volume, or correct train.data.path"),
    "data": ended(3, "no item is left after sampling"),
    "out-of-gpu-memory": ended(4, "out of GPU memory"),
    "diverged": ended(5, "step 8: loss holds values that are no numbers: lower train.optim.lr"),
    "checkpoint": ended(6, "none of 2 checkpoints can be used"),
    "volume-full": ended(7, "/runs/x: No space left on device: make room there and submit again"),
    "runs-folder": ended(7, "/runs/x: belongs to run y"),
    "attempts": ended(8, "3 attempts brought no new checkpoint"),
    "time-limit": ended(9, "cluster.max_hours is used up"),
    "owner-lost": again(138, "/runs/x: another pod owns this run now; this one stops and writes nothing"),
    "told-to-stop": again(143, "told to stop; saved at step 12"),
    "peer-lost": again(150, "another node is gone: connection reset"),
    "device": again(151, "CUDA error: uncorrectable ECC error"),
    "rendezvous": again(153, "not all 2 nodes joined; starting again"),
    "hanging": again(154, "rank 1: step 7 has not ended after 300 s; stacks of all ranks are in the run's logs folder"),
    "not-the-trainers-image": ended(1, log=("Traceback (most recent call last):", _NO_MODULE)),
    "wrong-platform": ended(1, log=("exec /usr/bin/tini: exec format error",)),
    "not-a-program": ended(127),
    "crashed": again(139, ""),
    "killed": ended(137),
    "unknown": again(152, "a rank ended without a word (killed? out of host memory?); its last lines are in the log"),
    "ended": ended(42),
    "failed": Facts(NOW, job("Created", "Failed", said="it is failing")),
}

RUNNING = {
    "quiet": running(STEP, age=1200),
    "hang-noticed": running(
        "rank 3: step 7 has not ended after 300 s: stacks and last collectives go to the run's logs"
    ),
    "waits-for-owner": running("waiting for owner u-9 (attempt 1) to let go or stand still"),
    "waits-after-failure": running("the attempt before failed: waiting 20 s"),
    "step-without-number": running("step 7: skipped, 2 in a row; items 4, 9", STEP),
    "no-room-for-checkpoints": running(
        "no checkpoint of step 80: it needs 12 GB and /runs has 3: make room there; training goes on, the next try",
        STEP,
    ),
    "checkpoint-failed": running("no checkpoint: /runs/x: Input/output error; training goes on, the next try", STEP),
    "slow-volume": running(
        "step 80: the next checkpoint waits, the one before is still being written: a slow volume", STEP
    ),
    "damaged-checkpoint": running("damaged checkpoint skipped: step-000080: sha256 differs", STEP),
    "smaller-plan": running("out of GPU memory: starting once more with memory plan 1", STEP),
    "slow-network": running("torch 2.13.0; 16 ranks on NVIDIA H100 80GB HBM3 over NET/Socket; packed rows", STEP),
    "overfitting": running("the held-out loss rises: 1.4 at step 90, 1.3 before", STEP),
    "restarted": running(
        "attempt 2",
        STEP,
        events=(event("ExitedWithCode", f"Pod: team.{RUN}-master-0 exited with code 143", "PyTorchJob", RUN),),
    ),
    "before-the-first-step": running("run demo, node 0 of 1"),
    "training": running(STEP),
    "succeeded": Facts(NOW, job("Created", "Succeeded")),
}

EXAMPLES: dict[str, Facts] = {**JOB, **REFUSED, **CLAIMS, **PLACING, **STARTING, **TAKEN, **SAID, **RUNNING}
