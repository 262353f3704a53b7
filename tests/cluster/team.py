"""A team's namespace on the cluster and a person's working directory beside it: real configs, a tiny model, real pods.

kctl is driven as a person drives it; what its pods left is read from the folders that are the claims.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kctl.config.run_config import load
from tests.cluster.shell import Shell
from tests.training.world import BASE, Done, ended, overlaid
from trainer.schema.contract import MANIFEST, RunFolder

UID = 1000
"""Of the profile's run_as: who owns what the claims hold."""


@dataclass(frozen=True)
class Team:
    """`root` is where kctl is typed; `volumes` are the claims' folders on this machine."""

    shell: Shell
    root: Path
    volumes: dict[str, Path]
    image: str

    def profile(self, name: str = "default", **changes: Any) -> None:
        """Write configs/clusters/NAME.yaml: no GPU, a fifth of a core, `changes` laid over it.

        The one called default also says where a run is looked for whose config is not named.
        """
        value: dict[str, Any] = {
            "image": self.image,
            "namespace": self.shell.namespace,
            "volumes": {claim: {"claim": claim} for claim in ("models", "data", "runs")},
            "cpu": "200m",
            "memory": "3Gi",
            "shm": "128Mi",
            "run_as": {"uid": UID, "gid": UID, "fs_group": UID},
            "grace_seconds": 60,
        }
        folder = self.root / "configs" / "clusters"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(json.dumps(overlaid(value, changes)))

    def config(self, name: str, nodes: int = 1, ranks: int = 1, profile: str = "default", **train: Any) -> str:
        """Write configs/NAME.yaml, a run of a few seconds with `train` laid over it; the run's name."""
        cluster = {"profile": profile, "nodes": nodes, "gpus_per_node": 0, "processes_per_node": ranks}
        path = self.root / "configs" / f"{name}.yaml"
        path.write_text(json.dumps({"name": name, "train": overlaid(BASE, train), "cluster": cluster}))
        return load(str(path), []).config.run

    def start(self, *argv: str, prefix: tuple[str, ...] = (), **environment: str) -> "subprocess.Popen[str]":
        """`kctl ARGV` in the working directory, as in a terminal: Ctrl-C reaches it also where it ignores the tests."""
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "kctl", *argv],
            cwd=self.root,
            env={**self.shell.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def kctl(self, *argv: str, prefix: tuple[str, ...] = (), **environment: str) -> Done:
        """The same to its end."""
        return ended(self.start(*argv, prefix=prefix, **environment))

    def ok(self, *argv: str) -> Done:
        """The same, which must succeed."""
        done = self.kctl(*argv)
        assert done.code == 0, f"kctl {' '.join(argv)}: {done.code}\n{done.out[-3000:]}\n{done.err[-3000:]}"
        return done

    def status(self, run: str) -> dict[str, Any]:
        """What `kctl status -o json` says."""
        value: dict[str, Any] = json.loads(self.ok("status", run, "-o", "json").out)
        return value

    def folder(self, run: str) -> RunFolder:
        return RunFolder(self.volumes["runs"] / run)

    def result(self, run: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.folder(run).result.read_bytes())
        return value

    def attempts(self, run: str) -> list[int]:
        """How the attempts on record ended."""
        return [one["code"] for one in json.loads(self.folder(run).attempts.read_bytes())]

    def losses(self, run: str) -> dict[int, float]:
        """The loss of each step in metrics.jsonl."""
        records = [json.loads(line) for line in self.folder(run).metrics.read_text().splitlines()]
        return {record["step"]: record["loss"] for record in records if "loss" in record}

    def enlarge(self, run: str, size: int) -> None:
        """Lay a file `big.bin` of so many random bytes into the run's adapter, as if the run had written it."""
        adapter, content = self.folder(run).adapter, os.urandom(size)
        (adapter / "big.bin").write_bytes(content)
        manifest = json.loads((adapter / MANIFEST).read_bytes())
        manifest["files"]["big.bin"] = {"size": size, "sha256": hashlib.sha256(content).hexdigest()}
        (adapter / MANIFEST).write_text(json.dumps(manifest))

    def pids(self, pod: str, *parts: str) -> list[int]:
        """Processes of this machine that are in the pod's container, those with all `parts` in their command line."""
        mark = f"TRAINER_POD_NAME={pod}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if mark in (entry / "environ").read_bytes() and line and all(part in line for part in parts):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def until(self, condition: Callable[[], object], what: str, seconds: float = 240.0) -> None:
        """Return once `condition` holds; on failure with what the cluster says of the namespace."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                said = self.shell.kubectl("get", "pytorchjobs,pods") + self.shell.kubectl("get", "events")
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{said[-6000:]}")
            time.sleep(0.2)

    def until_step(self, run: str, step: int, seconds: float = 240.0) -> None:
        """Return once the run has made `step` steps."""

        def reached() -> bool:
            metrics = self.folder(run).metrics
            return metrics.exists() and max(self.losses(run), default=0) >= step

        self.until(reached, f"{run} at step {step}", seconds)

    def until_checkpoint(self, run: str, step: int) -> None:
        """Return once a checkpoint of `step` or later is there."""
        folder = self.folder(run).checkpoints
        self.until(lambda: any(int(path.name[5:]) >= step for path in folder.glob("step-*")), f"{run} saved at {step}")
