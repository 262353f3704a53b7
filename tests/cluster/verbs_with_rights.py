"""One scene a verb: what is there before, the call itself, and how it is seen that it worked.

delete and prune are not verbs of kctl yet: in their scenes stand the calls that they will make. The operator's part is
played by the test (spec.runPolicy.managedBy tells a real one to stay away).
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.jobs import config_map, job, pod
from tests.cluster.shell import Shell

SHOWN = "shown-11111111"
"""The run with a pod whose log has LINE, for the verbs that only look."""
LINE = "step=20/100 loss=1.2345 lr=2.0e-04"
LINGERS = "kctl.dev/test"
"""A finalizer: a job with it is not gone at once, as one with pods is not."""


@dataclass(frozen=True)
class Person:
    """Somebody with a kubeconfig of their own and a folder to work in, beside the administrator."""

    shell: Shell
    folder: Path
    admin: Shell

    def kctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.shell.kctl(*arguments, "-n", self.shell.namespace, cwd=self.folder, timeout=120)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        environment = self.shell.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def kubectl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.run(self.shell.kubectl_path, "-n", self.shell.namespace, *arguments)


Outcome = tuple[bool, str]
"""Whether it worked, and what was said on stderr."""


@dataclass(frozen=True)
class Scene:
    """`prepare` is done by an administrator, for run number N, and returns what `act` gets to know of it."""

    prepare: Callable[[Shell, int], str]
    act: Callable[[Person, str], Outcome]


def _seed(number: int) -> list[str]:
    return ["demo", "--set", f"train.seed={7000 + number}"]


def _rendered(admin: Shell, number: int) -> tuple[str, list[dict[str, Any]]]:
    done = admin.kctl("render", *_seed(number), "-n", admin.namespace, "-o", "json")
    assert done.returncode == 0, done.stderr
    objects: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    objects[-1]["spec"]["runPolicy"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    return objects[-1]["metadata"]["name"], objects


def _create(admin: Shell, *objects: dict[str, Any]) -> None:
    admin.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def _failed_run(admin: Shell, number: int) -> str:
    run, objects = _rendered(admin, number)
    objects[-1]["metadata"]["finalizers"] = [LINGERS]
    _create(admin, *objects)
    admin.set_conditions(run, "Created", "Failed")
    return str(number)


def _submit(person: Person, number: str) -> Outcome:
    done = person.kctl("submit", *_seed(int(number)))
    return done.returncode == 0 and "it is created again and resumes" in done.stderr, done.stderr


def _nothing(admin: Shell, number: int) -> str:
    return SHOWN.partition("-")[0]


def _status(person: Person, run: str) -> Outcome:
    done = person.kctl("status", run, "-o", "json")
    return done.returncode == 0 and json.loads(done.stdout)["step"] == 20, done.stderr


def _list(person: Person, run: str) -> Outcome:
    done = person.kctl("list", "-o", "json")
    found = json.loads(done.stdout) if done.returncode == 0 else []
    return any(one["run"] == SHOWN and one["step"] == 20 for one in found), done.stderr


def _logs(person: Person, run: str) -> Outcome:
    done = person.kctl("logs", run)
    return done.returncode == 0 and LINE in done.stdout, done.stderr


def _live_run(admin: Shell, number: int) -> str:
    run = f"live-{number:08x}"
    _create(admin, job(run))
    return run


def _wait(person: Person, run: str) -> Outcome:
    """The run succeeds while somebody waits, late enough that a watch is needed."""
    soon = threading.Timer(8, person.admin.set_conditions, (run, "Created", "Succeeded"))
    soon.start()
    done = person.kctl("wait", run)
    soon.join()
    return done.returncode == 0 and "succeeded" in done.stderr, done.stderr


def _done_run(admin: Shell, number: int) -> str:
    """With a reader pod that has ended, as it is when somebody pulled before."""
    run, objects = _rendered(admin, number)
    _create(admin, *objects, pod(f"{run}-reader", run) | {"metadata": {"name": f"{run}-reader"}})
    admin.set_conditions(run, "Created", "Succeeded")
    ended = json.dumps({"status": {"phase": "Succeeded"}})
    admin.kubectl("patch", "pod", f"{run}-reader", "--subresource=status", "--type=merge", "-p", ended)
    return run


def _pull(person: Person, run: str) -> Outcome:
    done = person.kctl("pull", run[:-1])
    pulled = person.folder / "adapters" / run / "weights.bin"
    return done.returncode == 0 and pulled.is_file(), done.stderr


def _cancel(person: Person, run: str) -> Outcome:
    done = person.kctl("cancel", run)
    return done.returncode == 0 and f"{run} cancelled" in done.stdout, done.stderr


def _lingering_run(admin: Shell, number: int) -> str:
    run = f"lingers-{number:08x}"
    made = job(run)
    made["metadata"]["finalizers"] = [LINGERS]
    _create(admin, made)
    return run


def _delete(person: Person, run: str) -> Outcome:
    call = f"Cluster({person.shell.namespace!r}, None).delete({run!r}, 60)"
    done = person.run(sys.executable, "-c", f"from kctl.backends.cluster.backend import Cluster; {call}")
    return done.returncode == 0, done.stderr


def _old_run(admin: Shell, number: int) -> str:
    run = f"old-{number:08x}"
    _create(admin, job(run), config_map(run), pod(run, run))
    return run


def _prune(person: Person, run: str) -> Outcome:
    kinds = ("pytorchjob", "configmap", "pod")
    listed = [person.kubectl("get", kind, "-o", "name") for kind in kinds]
    deleted = [person.kubectl("delete", kind, run, "--wait=false") for kind in kinds]
    return all(one.returncode == 0 for one in listed + deleted), "".join(one.stderr for one in listed + deleted)


SCENES = {
    "submit": Scene(_failed_run, _submit),
    "status": Scene(_nothing, _status),
    "list": Scene(_nothing, _list),
    "logs": Scene(_nothing, _logs),
    "wait": Scene(_live_run, _wait),
    "pull": Scene(_done_run, _pull),
    "cancel": Scene(_live_run, _cancel),
    "delete": Scene(_lingering_run, _delete),
    "prune": Scene(_old_run, _prune),
}
