"""What the platform told this pod through its environment, checked once."""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.atomic import named_errors
from trainer.errors import ConfigError
from trainer.schema import contract


@dataclass(frozen=True)
class Pod:
    """This pod among the run's pods."""

    uid: str
    node: int
    """From 0; node 0 alone owns the run folder."""
    nodes: int
    grace: float
    """Seconds between SIGTERM and SIGKILL."""
    max_seconds: float | None
    """Of the whole series of attempts; None: no limit."""
    models: Path
    data: Path
    runs: Path
    stop_wish: Path | None
    """contract.ENV_STOP_WISH"""

    @property
    def stop_wished(self) -> bool:
        """True once somebody has annotated this pod so that it saves, ends and is started again."""
        try:
            return self.stop_wish is not None and bool(self.stop_wish.read_bytes())
        except OSError:  # not there, or being replaced
            return False


def read_pod(environ: Mapping[str, str]) -> Pod:
    """The pod that `environ` describes; by hand it is node 0 of 1. ConfigError names what is no number."""
    hours = _number(environ, contract.ENV_MAX_HOURS, 0.0)
    pod = Pod(
        uid=environ.get(contract.ENV_POD_UID) or str(uuid.uuid4()),
        node=int(_number(environ, "PET_NODE_RANK", 0)),
        nodes=int(_number(environ, "PET_NNODES", 1)),
        grace=_number(environ, contract.ENV_GRACE_SECONDS, 300.0),
        max_seconds=hours * 3600 if hours > 0 else None,
        models=contract.mounted(contract.ENV_MODELS, environ),
        data=contract.mounted(contract.ENV_DATA, environ),
        runs=contract.mounted(contract.ENV_RUNS, environ).absolute(),
        stop_wish=Path(environ[contract.ENV_STOP_WISH]) if environ.get(contract.ENV_STOP_WISH) else None,
    )
    if pod.node >= pod.nodes:
        raise ConfigError(f"PET_NODE_RANK={pod.node} with PET_NNODES={pod.nodes}: ranks of nodes count from 0")
    return pod


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        raise ConfigError(f"environment: {name} must be a plain number, got {text[:40]!r}; render the job with kctl")
    return float(text)


@contextmanager
def scratch(pod: Pod) -> Iterator[Path]:
    """A folder of this node for this pod's life, readable by nobody else."""
    folder = Path(tempfile.gettempdir()) / f"kctl-{re.sub(r'[^A-Za-z0-9.-]', '-', pod.uid)[:64]}"
    with named_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)  # of a launcher of this pod that was killed
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def host_memory(root: Path = Path("/")) -> float:
    """Bytes that the processes here may use together: the container's limit, else what the machine has."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of cgroup v2, v1
        limit = root / "sys/fs/cgroup" / name
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            return min(float(text), _machine_total(root))
    return _machine_total(root)


def _machine_total(root: Path) -> float:
    lines = (root / "proc/meminfo").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("MemTotal:"))) * 1024


def config_path(given: str | None) -> Path:
    """The run file: as given, else TRAINER_CONFIG, else where the ConfigMap is mounted."""
    return Path(given or os.environ.get(contract.ENV_CONFIG) or contract.CONFIG_PATH)
