"""One scene a verb: what is there before, the call itself, and how it is seen that it worked.

The operator's part is played by the test (spec.runPolicy.managedBy tells a real one to stay away).
"""

import json
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.jobs import OTHER_MANAGER, job, pod
from tests.cluster.shell import Shell
from tests.cluster.volumes import claim

SHOWN = "shown-11111111"
"""The run with a pod whose log has LINE, for the verbs that only look."""
LINE = "step=20/100 loss=1.2345 lr=2.0e-04"
WAITS = "waits-11111111"
"""A run without pods; the event WHY says what keeps them away."""
WHY = "exceeded quota: team"
PLAYED = {"kctl.dev/test": "played"}
"""What no node has: a scheduler leaves such pods to the test."""
WORKED = "done: /runs"
"""What the programs of merge, export and generate say at their end."""
OLD = "kctl.dev/test=old"
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


AMONG_OTHERS: AbstractContextManager[object] = nullcontext()
Outcome = tuple[bool, str]
"""Whether it worked, and what was said on stderr."""


@dataclass(frozen=True)
class Scene:
    """`prepare` is done by an administrator, for run number N, and returns what `act` gets to know of it."""

    prepare: Callable[[Shell, int], str]
    act: Callable[[Person, str], Outcome]
    alone: AbstractContextManager[object] = AMONG_OTHERS
    """Entered for both: what prune finds must be its own."""


def _seed(number: int) -> list[str]:
    return ["demo", "--set", f"train.seed={7000 + number}"]


def _rendered(admin: Shell, number: int) -> tuple[str, list[dict[str, Any]]]:
    done = admin.kctl("render", *_seed(number), "-n", admin.namespace, "-o", "json")
    assert done.returncode == 0, done.stderr
    objects: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    objects[-1]["spec"]["runPolicy"]["managedBy"] = OTHER_MANAGER
    (replica,) = objects[-1]["spec"]["pytorchReplicaSpecs"].values()
    replica["template"]["spec"]["nodeSelector"] = PLAYED
    return objects[-1]["metadata"]["name"], objects


def _create(admin: Shell, *objects: dict[str, Any]) -> None:
    admin.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def _failed_run(admin: Shell, number: int, days_ago: float = 0) -> str:
    run, objects = _rendered(admin, number)
    objects[-1]["metadata"]["finalizers"] = [LINGERS]
    _create(admin, *objects)
    admin.set_conditions(run, "Created", "Failed", days_ago=days_ago)
    return run


def _failed_config(admin: Shell, number: int) -> str:
    _failed_run(admin, number)
    return str(number)


def _submit(person: Person, number: str) -> Outcome:
    done = person.kctl("submit", *_seed(int(number)))
    return done.returncode == 0 and "it is created again and resumes" in done.stderr, done.stderr


def _submitted(admin: Shell, number: int) -> str:
    _create(admin, *_rendered(admin, number)[1])
    return str(number)


def _diff(person: Person, number: str) -> Outcome:
    """Of a run that is there, and of a config whose newest run is another."""
    there, newer = person.kctl("diff", *_seed(int(number))), person.kctl("diff", "demo", "--set", "train.seed=6999")
    worked = "runPolicy.managedBy" in there.stdout and "train.seed" in newer.stdout
    return worked and there.returncode == newer.returncode == 1, there.stderr + newer.stderr


def warning(job: dict[str, Any]) -> dict[str, Any]:
    """An event of the operator, which could not make the pods of this job."""
    about = {"kind": job["kind"], **{name: job["metadata"][name] for name in ("name", "namespace", "uid")}}
    said = {"type": "Warning", "reason": "FailedCreatePod", "message": WHY}
    return {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "no-pods"}, "involvedObject": about, **said}


def _nothing(admin: Shell, number: int) -> str:
    return SHOWN.partition("-")[0]


def _status(person: Person, run: str) -> Outcome:
    done, waits = person.kctl("status", run, "-o", "json"), person.kctl("status", WAITS)
    worked = done.returncode == 0 and json.loads(done.stdout)["step"] == 20 and WHY in waits.stdout
    return worked, done.stderr


def _explain(person: Person, run: str) -> Outcome:
    done, waits = person.kctl("explain", run, "-o", "json"), person.kctl("explain", WAITS)
    worked = done.returncode == 0 and "step 20/100" in done.stdout and WHY in waits.stdout
    return worked, done.stderr


def _list(person: Person, run: str) -> Outcome:
    done = person.kctl("list", "-o", "json")
    found = {one["run"]: one for one in (json.loads(done.stdout) if done.returncode == 0 else [])}
    return bool(found) and found[SHOWN]["step"] == 20 and WHY in found[WAITS]["sentence"], done.stderr


def _logs(person: Person, run: str) -> Outcome:
    done = person.kctl("logs", run)
    return done.returncode == 0 and LINE in done.stdout, done.stderr


def _live_run(admin: Shell, number: int) -> str:
    run = f"live-{number:08x}"
    _create(admin, job(run))
    return run


def _wait(person: Person, run: str) -> Outcome:
    """The run succeeds while somebody waits, so late that who may not watch has given up."""
    soon = threading.Timer(60, person.admin.set_conditions, (run, "Created", "Succeeded"))
    soon.start()
    done, gave_up = person.kctl("wait", run), person.kctl("wait", WAITS, "--timeout", "0s")
    soon.cancel()
    return done.returncode == 0 and "succeeded" in done.stderr and WHY in gave_up.stderr, done.stderr


def _done_run(admin: Shell, number: int, role: str = "reader") -> str:
    """With a reader pod that has ended, as it is when somebody pulled before."""
    run, objects = _rendered(admin, number)
    reader = pod(f"{run}-{role}", run) | {"metadata": {"name": f"{run}-{role}"}}
    reader["spec"]["nodeSelector"] = PLAYED
    _create(admin, *objects, reader)
    admin.set_conditions(run, "Created", "Succeeded")
    ended = json.dumps({"status": {"phase": "Succeeded"}})
    admin.kubectl("patch", "pod", f"{run}-{role}", "--subresource=status", "--type=merge", "-p", ended)
    return run


def _two_done_runs(admin: Shell, number: int) -> str:
    """Of the first there is the reader of many runs, which has ended."""
    other, objects = _rendered(admin, number + 500)
    _create(admin, *objects)
    return f"{_done_run(admin, number, 'catalog')} {other}"


def _report(person: Person, run: str) -> Outcome:
    done = person.kctl("report", run[:-1])
    return done.returncode == 0 and (person.folder / "adapters" / f"{run}.html").is_file(), done.stderr


def _tag(person: Person, run: str) -> Outcome:
    done = person.kctl("adapters", "tag", run, f"tag-{run}")
    found = person.admin.kctl("status", f"@tag-{run}", "-n", person.admin.namespace, "-o", "name")
    return done.returncode == 0 and run in found.stdout, done.stderr


def _beside(person: Person, runs: str, *verb: str) -> Outcome:
    """Two runs side by side: their names stand above the columns."""
    one, other = runs.split()
    done = person.kctl(*verb, one[:-1], other)
    return done.returncode == 0 and one in done.stdout and other in done.stdout, done.stderr


def _pull(person: Person, run: str) -> Outcome:
    done = person.kctl("pull", run[:-1])
    pulled = person.folder / "adapters" / run / "weights.bin"
    return done.returncode == 0 and pulled.is_file(), done.stderr


def _no_writer(admin: Shell, number: int) -> str:
    """The claim is there, and what a push before it could not remove is gone."""
    admin.kubectl("delete", "pods", "-l", "kctl.dev/role=writer", "--grace-period=0", "--force")
    made = claim("data", "ReadWriteMany", {"storageClassName": ""})  # that it is bound is the played node's business
    admin.kubectl("apply", "-f", "-", stdin=json.dumps(made))
    return f"file-{number}"


def _push(person: Person, file: str) -> Outcome:
    (person.folder / file).write_text(file)
    done = person.kctl("push", file, "--to", "data")
    found = json.loads(person.admin.kubectl("get", "pods", "-l", "kctl.dev/role=writer", "-o", "json"))["items"]
    left = [one for one in found if "deletionTimestamp" not in one["metadata"]]
    return done.returncode == 0 and "sha256 checked" in done.stderr and not left, done.stderr


def _work(person: Person, run: str, verb: str, *flags: str) -> Outcome:
    """merge or export: its pod's log is shown to the end, and the pod is removed."""
    done = person.kctl(verb, run[:-1], *flags)
    left = person.admin.kubectl("get", "pods", "-o", "name").split()
    return done.returncode == 0 and WORKED in done.stderr and f"pod/{run}-{verb}" not in left, done.stderr


def _generate(person: Person, run: str) -> Outcome:
    flags = ("--test", "test.json", "--out", "answers.json")
    worked, said = _work(person, run, "generate", *flags)
    return worked and (person.folder / "answers.json").is_file(), said


def _cancel(person: Person, run: str) -> Outcome:
    done = person.kctl("cancel", run)
    return done.returncode == 0 and f"{run} cancelled" in done.stdout, done.stderr


def _delete(person: Person, run: str, *flags: str) -> Outcome:
    done = person.kctl("delete", run, *flags)
    return done.returncode == 0 and f"{run} deleted" in done.stdout and _gone(person, run), done.stderr


def _old_run(admin: Shell, number: int) -> str:
    """The only one of its age: what a scene before it left is removed."""
    for one in admin.kubectl("get", "pytorchjobs", "-l", OLD, "-o", "name").split():
        admin.kubectl("delete", one)
    run = _failed_run(admin, number, days_ago=60)
    admin.kubectl("label", "pytorchjob", run, OLD)
    return run


def _prune(person: Person, run: str, *flags: str) -> Outcome:
    done = person.kctl("prune", "--older-than", "30d", *flags)
    return done.returncode == 0 and f"{run} deleted" in done.stdout and _gone(person, run), done.stderr


def _gone(person: Person, run: str) -> bool:
    return person.admin.kubectl("get", "pytorchjobs,configmaps", "-l", f"kctl.dev/run={run}", "-o", "name") == ""


_pruning, _pushing = threading.Lock(), threading.Lock()

SCENES = {
    "submit": Scene(_failed_config, _submit),
    "status": Scene(_nothing, _status),
    "explain": Scene(_nothing, _explain),
    "list": Scene(_nothing, _list),
    "diff": Scene(_submitted, _diff),
    "logs": Scene(_nothing, _logs),
    "wait": Scene(_live_run, _wait),
    "push": Scene(_no_writer, _push, _pushing),
    "pull": Scene(_done_run, _pull),
    "report": Scene(_done_run, _report),
    "adapters": Scene(_two_done_runs, lambda person, runs: _beside(person, runs, "adapters", "diff")),
    "adapters tag": Scene(_live_run, _tag),
    "compare": Scene(_two_done_runs, lambda person, runs: _beside(person, runs, "compare")),
    "merge": Scene(_done_run, lambda person, run: _work(person, run, "merge")),
    "export": Scene(_done_run, lambda person, run: _work(person, run, "export")),
    "generate": Scene(_done_run, _generate),
    "cancel": Scene(_live_run, _cancel),
    "delete": Scene(_failed_run, _delete),
    "delete --outputs": Scene(_failed_run, lambda person, run: _delete(person, run, "--outputs", "--yes")),
    "prune": Scene(_old_run, lambda person, run: _prune(person, run, "--yes"), _pruning),
    "prune --outputs": Scene(_old_run, lambda person, run: _prune(person, run, "--outputs", "--yes"), _pruning),
}
