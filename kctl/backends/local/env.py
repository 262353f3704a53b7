"""What a pod becomes on this machine: its command, its environment, its folders. Pure, but for the user's environment.

Taken over: command, env, fieldRefs, volumes. Not taken over: image, tini, init containers, limits, probes, network
names, read-only mounts, annotations; HOME, TMPDIR, PATH and caches stay the user's, every pod sees all CUDA devices.
"""

import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kctl.backends.local.process import ENV_MARK
from kctl.backends.local.store import LocalRun
from kctl.errors import UsageError
from kctl.manifest import Manifest
from trainer.schema.contract import (
    CONTAINER,
    ENV_TERMINATION_LOG,
    LABEL_JOB_NAME,
    LABEL_REPLICA_INDEX,
    LABEL_REPLICA_TYPE,
    RUNS_MOUNT,
)

_USERS_OWN = ("HOME", "TMPDIR", "PATH", "XDG_CACHE_HOME", "HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
_NETWORK = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_IB_HCA")
_INHERITED = re.compile(r"^(PET_|TRAINER_|TORCHELASTIC_|MASTER_|RANK$|LOCAL_RANK$|WORLD_SIZE$|LOCAL_WORLD_SIZE$)")
_LABEL_FIELD = re.compile(r"^metadata\.labels\['([^']+)'\]$")


@dataclass(frozen=True)
class PodPlan:
    """One pod that the operator would create."""

    name: str
    replica: str
    index: int
    node_rank: int
    container: Manifest
    pod_spec: Manifest
    labels: dict[str, str]
    restart_policy: str

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return float(self.pod_spec.get("terminationGracePeriodSeconds", 30))


def pod_plans(job: Manifest) -> list[PodPlan]:
    """All pods of a job in rank order: the master first, then the workers."""
    replicas = job["spec"]["pytorchReplicaSpecs"]
    plans: list[PodPlan] = []
    for replica in ("Master", "Worker"):
        spec = replicas.get(replica)
        for index in range(spec.get("replicas", 1) if spec else 0):
            template = spec["template"]
            container = next((one for one in template["spec"]["containers"] if one["name"] == CONTAINER), None)
            if container is None or not container.get("command"):
                raise UsageError(f"{job['metadata']['name']}: {replica} needs a container {CONTAINER!r} with a command")
            labels = {
                **template.get("metadata", {}).get("labels", {}),
                LABEL_JOB_NAME: job["metadata"]["name"],
                LABEL_REPLICA_TYPE: replica.lower(),
                LABEL_REPLICA_INDEX: str(index),
            }
            policy = spec.get("restartPolicy", "OnFailure")
            if policy not in ("ExitCode", "Never"):
                raise UsageError(f"restartPolicy {policy}: locally only ExitCode and Never exist")
            name = f"{job['metadata']['name']}-{replica.lower()}-{index}"
            plans.append(PodPlan(name, replica, index, len(plans), container, template["spec"], labels, policy))
    return plans


def folders(run: LocalRun, plan: PodPlan) -> dict[str, Path]:
    """Mount path -> the folder or file here that stands for it."""
    volumes = {volume["name"]: volume for volume in plan.pod_spec.get("volumes", [])}
    result: dict[str, Path] = {}
    for mount in plan.container.get("volumeMounts", []):
        volume, path = volumes[mount["name"]], mount["mountPath"].rstrip("/")
        inside = mount.get("subPath", "")
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            if claim == "jobs":
                raise UsageError("a volume claim called 'jobs' cannot be used locally; give it another name")
            result[path] = run.folder.parent.parent / claim / inside
        elif "configMap" in volume:
            result[path] = run.config / volume["name"] / inside
        elif "emptyDir" not in volume and "downwardAPI" not in volume:  # of the latter nothing is there
            raise UsageError(f"volume {volume['name']}: locally only claims, ConfigMaps and emptyDirs exist")
        elif path != "/dev/shm":
            result[path] = run.work / plan.name / volume["name"] / inside
    return result


def runs_folder(run: LocalRun, job: Manifest) -> Path:
    """The run's folder on the runs volume."""
    mapped = folders(run, pod_plans(job)[0])
    return mapped.get(RUNS_MOUNT, run.folder.parent.parent / "runs") / run.name


def command(run: LocalRun, plan: PodPlan) -> list[str]:
    """argv: without tini, with this Python, paths below a mount replaced."""
    words = [*plan.container["command"], *plan.container.get("args", [])]
    if Path(words[0]).name == "tini" and "--" in words:
        words = words[words.index("--") + 1 :]
    mapped = folders(run, plan)
    words = [_mapped(word, mapped) for word in words]
    # Last: this Python may itself lie below a folder that is a mount in the container, such as /tmp.
    if Path(words[0]).name in ("python", "python3"):
        words[0] = sys.executable
    return words


def environment(run: LocalRun, job: Manifest, plan: PodPlan, uid: str, port: int) -> dict[str, str]:
    """The pod's environment: the user's, the container's, then what the operator appends (it wins).

    UsageError for a secret or field that cannot be had here.
    """
    mapped = folders(run, plan)
    result = {name: value for name, value in os.environ.items() if not _INHERITED.match(name)}
    for entry in plan.container.get("env", []):
        name = entry["name"]
        if name in _USERS_OWN or name in _NETWORK:
            continue
        value = entry["value"] if "value" in entry else _referred(name, entry.get("valueFrom") or {}, plan, uid)
        if value is not None:
            result[name] = _mapped(value, mapped)
    result.update(_operator(job, plan))
    for name in ("MASTER_PORT", "PET_MASTER_PORT"):
        if name in result:
            result[name] = str(port)
    host = re.compile(rf"\b{re.escape(run.name)}-(master|worker)-\d+\b")
    for name in ("MASTER_ADDR", "PET_MASTER_ADDR", "PET_RDZV_ENDPOINT"):
        if name in result:
            result[name] = host.sub("127.0.0.1", result[name])
    result[ENV_MARK] = uid
    return result


def termination_log(run: LocalRun, plan: PodPlan, life: int) -> Path:
    """Stands for /dev/termination-log, one a life."""
    return run.work / plan.name / f"termination-{life}"


def with_termination_log(values: dict[str, str], path: Path) -> dict[str, str]:
    """`values` with the contract's variable pointing at `path`."""
    return {**values, ENV_TERMINATION_LOG: str(path)}


def _operator(job: Manifest, plan: PodPlan) -> dict[str, str]:
    replicas = job["spec"]["pytorchReplicaSpecs"]
    nodes = sum(spec.get("replicas", 1) for spec in replicas.values())
    per_node = str(job["spec"].get("nprocPerNode", "auto"))
    values = {"PYTHONUNBUFFERED": "1", "PET_NPROC_PER_NODE": per_node, "PET_NNODES": str(nodes)}
    if "Master" in replicas:
        world = nodes * (int(per_node) if per_node.isdigit() else 1)
        master = f"{job['metadata']['name']}-master-0"
        values |= {"MASTER_ADDR": master, "PET_MASTER_ADDR": master, "MASTER_PORT": "0", "PET_MASTER_PORT": "0"}
        values |= {"WORLD_SIZE": str(world), "RANK": str(plan.node_rank), "PET_NODE_RANK": str(plan.node_rank)}
    return values


def _referred(name: str, source: Mapping[str, Any], plan: PodPlan, uid: str) -> str | None:
    if "secretKeyRef" in source:
        value = os.environ.get(name)
        if value is None and not source["secretKeyRef"].get("optional"):
            raise UsageError(
                f"cluster.env.{name} comes from secret {source['secretKeyRef'].get('name')}: "
                f"locally it is taken from your environment; export {name}=... and submit again"
            )
        return value
    path = (source.get("fieldRef") or {}).get("fieldPath", "")
    fields = {
        "metadata.uid": uid,
        "metadata.name": plan.name,
        "metadata.namespace": "local",
        "status.podIP": "127.0.0.1",
        "status.hostIP": "127.0.0.1",
        "spec.nodeName": socket.gethostname(),
    }
    label = _LABEL_FIELD.match(path)
    if label:
        return plan.labels.get(label[1], "")
    if path not in fields:
        raise UsageError(f"env {name}: {path or 'this source'} is not known locally")
    return fields[path]


def _mapped(value: str, mapped: Mapping[str, Path]) -> str:
    for mount in sorted(mapped, key=len, reverse=True):
        if value == mount or value.startswith(mount + "/"):
            return str(mapped[mount]) + value[len(mount) :]
    return value
