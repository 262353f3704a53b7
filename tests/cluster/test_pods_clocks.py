"""Clocks that are an hour off, kctl's and the trainer's, in both directions: nothing is lost, doubled or negative."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import BIN, HERE
from tests.cluster.faults import LONG, STEPS, held, kept, master, reading, steps
from tests.cluster.team import Team
from tests.training.world import Done

pytestmark = pytest.mark.timeout(600)
LIBRARIES = ("real_sleep.so", "libfaketimeMT.so.1")
AGE = r"(\d+m\d+s|\d+m|\d+s)"
"""Under an hour, and no minus sign; a whole minute has no seconds."""


def shifted(folder: Path, by: str) -> dict[str, str]:
    """Environment of a program whose wall clock is off. Its monotonic clock is not: a real one never is."""
    quiet = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    return {"LD_PRELOAD": " ".join(str(folder / name) for name in LIBRARIES), "FAKETIME": by, **quiet}


@dataclass
class Scene:
    """A run of which everything was typed with a wrong clock."""

    run: str
    done: dict[str, Done] = field(default_factory=dict)


@pytest.fixture(scope="session")
def faketime(kubeconfig: str) -> Path:
    """The folder beside the cluster with the libraries that shift a program's clock, one of them Debian's."""
    folder = BIN.with_name("faketime")
    if not all((folder / name).exists() for name in LIBRARIES):
        script = '. "$0/paths.sh"; . "$0/debian.sh"; unpack_packages "$1" libfaketime'
        subprocess.run(["bash", "-euc", script, HERE, folder], check=True)
        for path in folder.rglob(f"usr/**/{LIBRARIES[1]}"):
            shutil.copy(path, folder)
        compiler = ["gcc", "-shared", "-fPIC", "-o", folder / LIBRARIES[0], HERE / "real_sleep.c"]
        subprocess.run(compiler, check=True)
    return folder


def kubeconfig_of_any_time(team: Team) -> Path:
    """The test cluster's certificate may be younger than an hour: a clock that is behind would not accept it yet."""
    value = yaml.safe_load(Path(team.shell.kubeconfig).read_text())
    for one in value["clusters"]:
        del one["cluster"]["certificate-authority"]
        one["cluster"]["insecure-skip-tls-verify"] = True
    path = team.root / "kubeconfig"
    path.write_text(yaml.safe_dump(value))
    return path


def played(team: Team, faketime: Path, name: str, kctl_is: str, trainer_is: str) -> Scene:
    """Everything typed with the one clock while the trainer has the other."""
    team.profile(name, memory="2Gi", env=shifted(Path("/models"), trainer_is))
    run = team.config(name, profile=name, **LONG)
    scene = Scene(run)
    wrong = {**shifted(faketime, kctl_is), "KUBECONFIG": str(kubeconfig_of_any_time(team))}

    def typed(label: str, *argv: str) -> None:
        scene.done[label] = team.kctl(*argv, **wrong)

    typed("submit", "submit", name)
    with reading(team, "logs", "-f", name, **wrong) as followed:
        with held(team, run, master(run)):
            typed("status", "status", name)
            typed("list", "list")
            typed("since", "logs", "--since", "10m", name)
            typed("nothing", "logs", "--since", "0s", name)
            typed("logs", "logs", name)
        typed("wait", "wait", name)
    scene.done["follow"] = followed.result()
    typed("after", "status", name)
    return scene


CLOCKS = {"ahead": ("+1h", "-1h"), "behind": ("-1h", "+1h")}
"""Of kctl and of the trainer, by the name of the run."""


@pytest.fixture(scope="module")
def scenes(team: Team, faketime: Path) -> Iterator[dict[str, "Future[Scene]"]]:
    for name in LIBRARIES:
        shutil.copy(faketime / name, team.volumes["models"])
    with ThreadPoolExecutor(len(CLOCKS)) as stage:
        yield {name: stage.submit(played, team, faketime, name, *clocks) for name, clocks in CLOCKS.items()}


def test_the_library_shifts_a_clock(faketime: Path) -> None:
    def year(**environment: str) -> int:
        said = subprocess.run(["date", "+%Y"], env={**os.environ, **environment}, capture_output=True, check=True)
        return int(said.stdout)

    assert year(**shifted(faketime, "+800d")) - year() in (2, 3)


@pytest.mark.parametrize("name", CLOCKS)
def test_everything_works_with_a_wrong_clock(team: Team, scenes: dict[str, "Future[Scene]"], name: str) -> None:
    scene = scenes[name].result()
    for label, done in scene.done.items():
        assert done.code == 0, f"{label}: {done.err}"
    whole = scene.done["follow"].out.splitlines()
    assert whole == kept(team, scene.run), "every line once"
    assert steps(whole) == list(range(1, STEPS + 1))
    so_far = scene.done["logs"].out.splitlines()
    assert so_far == whole[: len(so_far)] and steps(so_far)
    assert scene.done["since"].out == scene.done["logs"].out, "all of it is younger than 10 minutes"
    assert not steps(scene.done["nothing"].out.splitlines())
    for label in ("status", "after"):
        assert re.search(rf"\({AGE} ago\)", scene.done[label].out), scene.done[label].out
    assert re.search(rf"{scene.run} .* {AGE}$", scene.done["list"].out, re.MULTILINE), scene.done["list"].out
    assert "Succeeded" in scene.done["after"].out and "succeeded" in scene.done["wait"].err
