"""One scene a verb: what is there before, the call itself, and how it is seen that it worked.

The operator's part is played by the test (spec.runPolicy.managedBy tells a real one to stay away).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.jobs import job, pod
from tests.cluster.shell import Shell

SHOWN = "shown-11111111"
"""The run with a pod whose log has LINE, for the verbs that only look."""
LINE = "step=20/100 loss=1.2345 lr=2.0e-04"
WAITING, WARNING = "waiting-11111111", "exceeded quota: team"
"""The run without pods, and the event that says why."""
LINGERS = "kctl.dev/test"
"""A finalizer: a job with it is not gone at once, as one with pods is not."""


@dataclass(frozen=True)
class Person:
    """Somebody with a kubeconfig of their own and a folder to work in, beside the administrator."""

    shell: Shell
    folder: Path
    admin: Shell

    def kctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.shell.kctl(*arguments, "-n", self.shell.namespace, cwd=self.folder, timeout=300)


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
    done = admin.kctl("render", *_seed(number), "-n", admin.namespace, "-o", "json", timeout=300)
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
    return ""


def _status(person: Person, _: str) -> Outcome:
    both = [person.kctl("status", run.partition("-")[0], "-o", "json") for run in (SHOWN, WAITING)]
    found = [json.loads(one.stdout) for one in both if one.returncode == 0]
    return _is_whole(found), "".join(one.stderr for one in both)


def _list(person: Person, _: str) -> Outcome:
    done = person.kctl("list", "-o", "json")
    return done.returncode == 0 and _is_whole(json.loads(done.stdout)), done.stderr


def _is_whole(found: list[dict[str, Any]]) -> bool:
    """What the log and the events tell is there, too."""
    told = {one["run"]: (one["step"], one["sentence"]) for one in found}
    return told.get(SHOWN, (None,))[0] == 20 and told.get(WAITING, (None, None))[1] == WARNING


def _logs(person: Person, _: str) -> Outcome:
    done = person.kctl("logs", SHOWN.partition("-")[0])
    return done.returncode == 0 and LINE in done.stdout, done.stderr


def _live_run(admin: Shell, number: int) -> str:
    run = f"live-{number:08x}"
    _create(admin, job(run))
    return run


def _wait(person: Person, run: str) -> Outcome:
    """Without a watch kctl gives up after 20 s; the run succeeds when it has not for longer than that."""
    command = [Path(sys.executable).with_name("kctl"), "wait", run, "-n", person.shell.namespace]
    waiting = subprocess.Popen(command, env=person.shell.environment, stderr=subprocess.PIPE, text=True)
    try:
        _, said = waiting.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        person.admin.set_conditions(run, "Created", "Succeeded")
        _, said = waiting.communicate(timeout=60)
    return waiting.returncode == 0 and "succeeded" in said, said


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


def _ended_run(admin: Shell, number: int) -> str:
    run, objects = _rendered(admin, number)
    objects[-1]["metadata"]["finalizers"] = [LINGERS]
    _create(admin, *objects)
    admin.set_conditions(run, "Created", "Succeeded")
    return run


def _delete(*flags: str) -> Callable[[Person, str], Outcome]:
    def act(person: Person, run: str) -> Outcome:
        done = person.kctl("delete", run[:-1], *flags)
        return done.returncode == 0 and _gone(person.admin, run), done.stderr

    return act


def _gone(admin: Shell, run: str) -> bool:
    return not admin.kubectl("get", "pytorchjobs,configmaps,pods", "-l", f"kctl.dev/run={run}", "-o", "name")


def _old_run(admin: Shell, number: int) -> str:
    """Ended long ago, so that prune can be told to take it alone."""
    run = _ended_run(admin, number)
    long_ago = [{"op": "replace", "path": "/status/conditions/1/lastTransitionTime", "value": "2026-01-01T00:00:00Z"}]
    admin.kubectl("patch", "pytorchjob", run, "--subresource=status", "--type=json", "-p", json.dumps(long_ago))
    return run


def _prune(person: Person, run: str) -> Outcome:
    done = person.kctl("prune", "--older-than", "1h", "--yes")
    return done.returncode == 0 and _gone(person.admin, run), done.stderr


SCENES = {
    "submit": Scene(_failed_run, _submit),
    "status": Scene(_nothing, _status),
    "list": Scene(_nothing, _list),
    "logs": Scene(_nothing, _logs),
    "wait": Scene(_live_run, _wait),
    "pull": Scene(_done_run, _pull),
    "cancel": Scene(_live_run, _cancel),
    "delete": Scene(_ended_run, _delete()),
    "delete --outputs": Scene(_ended_run, _delete("--outputs", "--yes")),
    "prune": Scene(_old_run, _prune),
}
