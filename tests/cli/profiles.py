"""Profiles and configs for the rendering tests: one of each kind of run that a template has a branch for."""

from dataclasses import dataclass
from typing import Any

from kctl.config.profile import ClusterProfile
from kctl.config.run_config import RunConfig, load

DIGEST = "registry.example.com/kctl/trainer@sha256:" + "0123456789abcdef" * 4


def profile(**fields: Any) -> ClusterProfile:
    """The shipped default profile with other fields, its image pinned."""
    default = load("lora_di3", []).profile.model_dump()
    return ClusterProfile.model_validate({**default, "image": DIGEST, **fields})


def config(*sets: str, base: str = "lora_di3") -> RunConfig:
    """A shipped config with fields set."""
    return load(base, list(sets)).config


@dataclass(frozen=True)
class Case:
    """One rendered variant."""

    config: RunConfig
    profile: ClusterProfile
    namespace: str | None = None


def cases() -> dict[str, Case]:
    """Every branch of the templates, by name."""
    one_claim = {name: {"claim": "shared", "sub_path": f"team/{name}"} for name in ("models", "data", "runs")}
    sidecar = {"name": "sidecar", "image": DIGEST, "securityContext": {"allowPrivilegeEscalation": False}}
    sidecar["securityContext"]["capabilities"] = {"drop": ["ALL"]}
    return {
        "two-nodes-volcano": Case(
            config("cluster.nodes=2", "cluster.priority=high"),
            profile(queue={"kind": "volcano", "name": "gpu"}, rdma={"rdma/ib": 8}, env={"NCCL_DEBUG": "INFO"}),
            "research",
        ),
        "two-nodes-cpu": Case(config("cluster.nodes=2", base="demo"), profile(gpu=None)),
        "kueue-openshift": Case(
            config("cluster.env={WANDB_API_KEY: {secret: wandb, key: key}, NOTE: 'on'}", "cluster.max_hours=0.5"),
            profile(queue={"kind": "kueue", "name": "gpu"}, run_as=None, pull_secrets=["pull"], namespace="research"),
        ),
        "one-claim-patched": Case(
            config("cluster.max_hours=null"),
            profile(
                volumes=one_claim,
                node_selector={"gpu": "h100", "on": "yes"},
                pod_patch={
                    "containers": [{"name": "pytorch", "env": [{"name": "HOME", "value": "/tmp/home"}]}, sidecar],
                    "dnsPolicy": "ClusterFirst",
                    "tolerations": None,
                },
            ),
        ),
    }
