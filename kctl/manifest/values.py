"""What the templates receive: one frozen dataclass, computed from a run config and a cluster profile.

Every decision about a pod is here; the templates only write it down.
"""

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from kctl.config.environment import entries
from kctl.config.profile import Claim, ClusterProfile, RunAs
from kctl.config.run_config import RunConfig
from kctl.errors import UsageError
from trainer.schema import contract
from trainer.schema.loading import RunFile

_CACHES = {
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "XDG_CACHE_HOME": "/tmp/cache",
    "HF_HOME": "/tmp/huggingface",
    "TRITON_CACHE_DIR": "/tmp/triton",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",
}
"""The root file system is read-only and may be shared by any uid: everything that writes, writes below /tmp."""

_ON_CPU = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
"""DeepSpeed guesses otherwise; with more threads than cores a rank runs five times slower."""


@dataclass(frozen=True)
class Mount:
    """One folder of a claim as the container sees it."""

    volume: str
    path: str
    sub_path: str | None
    read_only: bool


@dataclass(frozen=True)
class Values:
    """All that the templates may use."""

    run: str
    namespace: str | None
    labels: dict[str, str]
    config_map: str
    config_json: str
    config_folder: str
    stop_wish: PurePosixPath
    nodes: int
    ranks_per_node: int
    kueue_queue: str | None
    volcano_queue: str | None
    priority: str | None
    image: str
    pull_secrets: tuple[str, ...]
    env: list[dict[str, Any]]
    cpu: str
    memory: str
    shm: str
    devices: dict[str, int]
    mounts: list[Mount]
    claims: dict[str, str]
    run_as: RunAs | None
    grace_seconds: int
    node_selector: dict[str, str]
    tolerations: list[dict[str, Any]]

    @property
    def replica(self) -> str:
        """One node is a Master; several are Workers only: no init container, and all must succeed."""
        return "Master" if self.nodes == 1 else "Worker"


def values_of(config: RunConfig, profile: ClusterProfile, namespace: str | None) -> Values:
    """The values for one run; UsageError where the config and the cluster do not fit together."""
    _must_fit(config, profile)
    run, cluster = config.run, config.cluster
    config_json = RunFile(run, config.train).to_json()
    mounts, claims = _volumes(profile)
    queue = profile.queue
    return Values(
        run=run,
        namespace=namespace or profile.namespace,
        labels={contract.LABEL_RUN: run, contract.LABEL_CONFIG: config.name, "app.kubernetes.io/name": "kctl"},
        config_map=f"{run}-{hashlib.sha256(config_json.encode()).hexdigest()[:6]}",
        config_json=config_json,
        config_folder=str(PurePosixPath(contract.CONFIG_PATH).parent),
        stop_wish=PurePosixPath(contract.STOP_WISH_PATH),
        nodes=cluster.nodes,
        ranks_per_node=cluster.ranks_per_node,
        kueue_queue=queue.name if queue.kind == "kueue" else None,
        volcano_queue=queue.name if queue.kind == "volcano" else None,
        priority=cluster.priority,
        image=profile.image,
        pull_secrets=profile.pull_secrets,
        env=_env(run, config, profile),
        cpu=profile.cpu,
        memory=profile.memory,
        shm=profile.shm,
        devices=_devices(config, profile),
        mounts=mounts,
        claims=claims,
        run_as=profile.run_as,
        grace_seconds=profile.grace_seconds,
        node_selector=profile.node_selector,
        tolerations=[item.model_dump(exclude_none=True) for item in profile.tolerations],
    )


def _must_fit(config: RunConfig, profile: ClusterProfile) -> None:
    cluster = config.cluster
    if cluster.gpus_per_node and profile.gpu is None:
        raise UsageError(
            f"cluster.gpus_per_node: profile {cluster.profile} has no gpu section, got {cluster.gpus_per_node}: "
            "choose another profile, or gpus_per_node: 0 with processes_per_node"
        )
    if cluster.nodes > 1:
        for name, claim in _claims(profile).items():
            if claim.access_mode == "ReadWriteOnce":
                raise UsageError(
                    f"cluster.nodes: {cluster.nodes} nodes cannot mount {name} claim {claim.claim!r} of profile "
                    f"{cluster.profile}, which is ReadWriteOnce: use nodes: 1, or a ReadWriteMany claim"
                )


def _claims(profile: ClusterProfile) -> dict[str, Claim]:
    volumes = profile.volumes
    return {"models": volumes.models, "data": volumes.data, "runs": volumes.runs}


def _volumes(profile: ClusterProfile) -> tuple[list[Mount], dict[str, str]]:
    # A claim that serves two of them is one volume of the pod: attaching it twice has hung kubelets.
    paths = {"models": contract.MODELS_MOUNT, "data": contract.DATA_MOUNT, "runs": contract.RUNS_MOUNT}
    names: dict[str, str] = {}
    mounts = []
    for name, claim in _claims(profile).items():
        volume = names.setdefault(claim.claim, name)
        mounts.append(Mount(volume, paths[name], claim.sub_path, read_only=name != "runs"))
    return mounts, {volume: claim for claim, volume in names.items()}


def _devices(config: RunConfig, profile: ClusterProfile) -> dict[str, int]:
    if not config.cluster.gpus_per_node or profile.gpu is None:
        return {}
    return {profile.gpu.resource: config.cluster.gpus_per_node} | (profile.rdma if config.cluster.nodes > 1 else {})


def _env(run: str, config: RunConfig, profile: ClusterProfile) -> list[dict[str, Any]]:
    plain = {
        contract.ENV_CONFIG: contract.CONFIG_PATH,
        contract.ENV_MODELS: contract.MODELS_MOUNT,
        contract.ENV_DATA: contract.DATA_MOUNT,
        contract.ENV_RUNS: contract.RUNS_MOUNT,
        contract.ENV_GRACE_SECONDS: str(profile.grace_seconds),
        contract.ENV_STOP_WISH: contract.STOP_WISH_PATH,
    }
    if config.cluster.max_hours is not None:
        # The launcher reads plain decimals only, and 0 as no limit.
        plain[contract.ENV_MAX_HOURS] = f"{max(config.cluster.max_hours, 1e-6):.6f}".rstrip("0").rstrip(".")
    fields = {contract.ENV_POD_NAME: "metadata.name", contract.ENV_POD_UID: "metadata.uid"}
    if config.cluster.nodes > 1:
        plain |= _rendezvous(run, config.cluster.nodes)
        fields["PET_NODE_RANK"] = f"metadata.labels['{contract.LABEL_REPLICA_INDEX}']"
    plain |= _CACHES | (_ON_CPU if config.cluster.gpus_per_node == 0 else {})
    found: dict[str, dict[str, Any]] = {name: {"name": name, "value": value} for name, value in plain.items()}
    found |= {name: {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()}
    found |= {entry["name"]: entry for entry in entries(profile.env | config.cluster.env)}
    return list(found.values())


def _rendezvous(run: str, nodes: int) -> dict[str, str]:
    # Static, at worker-0: without elasticPolicy the operator tells Workers neither the address nor their rank.
    return {
        "PET_MASTER_ADDR": f"{run}-worker-0",
        "PET_MASTER_PORT": str(contract.MASTER_PORT),
        "PET_NNODES": str(nodes),
        "PET_RDZV_CONF": "timeout=1800",
        "PET_MAX_RESTARTS": "0",
    }
