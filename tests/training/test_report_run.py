"""Who writes the report and when: the program, rank 0 beside its steps, the launcher at every end. Event files too."""

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from tests.training.event_files import events
from tests.training.world import wait_for
from tests.unit.launch_world import ROOT, World, make_world, write_tokenizer
from tests.unit.test_launch_atomic import on_tmpfs
from tests.unit.test_report import write_run
from trainer.metrics import Metrics
from trainer.pod.ownership import Owner
from trainer.pod.ranks import descendants
from trainer.schema.contract import ENV_OWNER, RunFolder
from trainer.schema.ops import Ops

RANK = """
import json, os, pathlib, sys
from trainer.pod import outcome
with pathlib.Path(os.environ["TRAINER_RUN_FOLDER"], "metrics.jsonl").open("w") as metrics:
    for step in range(1, 4):
        print(json.dumps({"step": step, "steps": 9, "loss": 3.0 - step / 10, "lr": 1e-3}), file=metrics)
print("about to fall <over>")
outcome.report(CODE, "step 4: <b>no number</b>")
sys.exit(1)
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    write_tokenizer(world.root / "models" / "tiny")
    return world


def program(folder: RunFolder, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "trainer.report", str(folder.root)]
    return subprocess.run(
        command, env={**os.environ, **environ}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def picture(folder: RunFolder) -> Image.Image:
    return Image.open(io.BytesIO(folder.picture.read_bytes())).convert("RGB")


def test_every_end_of_an_attempt_has_its_report(world: World) -> None:
    code, output = world.launch(RANK.replace("CODE", "143"))
    assert code == 143, output
    first = world.folder.page.read_text()
    assert "Restarting" in first and "1</b> from step 0: preempted (code 143)" in first
    assert "step 4: &lt;b&gt;no number&lt;/b&gt;" in first and "about to fall &lt;over&gt;" in first
    assert "kept: training items" in first
    assert picture(world.folder).size == (1200, 640)
    code, output = world.launch(RANK.replace("CODE", "5"))
    assert code == 5, output
    second = world.folder.page.read_text()
    assert "Failed" in second and "2</b> from step 0: diverged (code 5)" in second and "(code 143)" in second
    assert world.json("owner.json")["released"] and "no new report" not in output
    assert not list(world.folder.root.glob(".*"))


def test_a_run_that_fails_before_its_first_step_has_one_too(world: World) -> None:
    (world.root / "data" / "train.jsonl").write_bytes(b'{"prompt": \xff')
    code, _ = world.launch("pass")
    assert code == 3 and "train.jsonl" in world.folder.page.read_text()
    assert not world.folder.picture.exists(), "no loss, no picture"


def test_a_report_that_fails_is_a_line_of_the_log_and_changes_nothing(world: World) -> None:
    spoilt = "import os, pathlib; pathlib.Path(os.environ['TRAINER_RUN_FOLDER'], 'report.html').mkdir(); "
    code, output = world.launch(spoilt + "from trainer.pod import outcome; outcome.report(5, 'no number'); exit(1)")
    assert code == 5 and world.message()["sentence"] == "no number"
    (line,) = [line for line in output.splitlines() if line.startswith("no new report: ")]
    assert "report.html: Is a directory" in line and line in world.folder.log(1, 0).read_text()
    assert world.json("owner.json")["released"]


def test_only_the_owner_writes_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path, 30)
    (folder.root / ".report.html.0123456789ab.tmp").write_text("half a p")
    owner = Owner("pod-b", 2, 0, "node-7", 1, 1)
    folder.owner.write_text(json.dumps(asdict(owner)))
    done = program(folder, **{ENV_OWNER: Owner("pod-a", 1, 0, "node-7", 1, 1).token})
    assert done.returncode == 1 and "another pod owns this run now" in done.stderr
    assert not folder.page.exists() and len(list(folder.root.glob(".*"))) == 1
    done = program(folder, **{ENV_OWNER: owner.token})
    assert not list(folder.root.glob(".*")), "what a killed report left is gone"
    assert done.returncode == 0 and done.stderr == "" and "run-plain" in folder.page.read_text()
    colours = {colour for _, colour in picture(folder).getcolors(1 << 24) or []}
    assert {(255, 255, 255), (36, 104, 168), (196, 80, 27)} <= colours, "paper, training, held out"


def test_a_full_volume_keeps_the_report_before(tmp_path: Path) -> None:
    said = on_tmpfs(
        tmp_path,
        "size=200k",
        """
import pathlib, subprocess, sys
folder = pathlib.Path(sys.argv[1], "run")
folder.mkdir()
report = [sys.executable, "-m", "trainer.report", str(folder)]
subprocess.run(report, check=True)
before = (folder / "report.html").read_bytes()
with open(folder / "filler", "wb", 0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
print(subprocess.run(report, capture_output=True, text=True).stderr)
print(before == (folder / "report.html").read_bytes(), [path.name for path in folder.glob(".*")])
""",
    )
    assert said.startswith(f"no new report: {tmp_path}/run/report.html: No space left on device: make room there")
    assert said.endswith("True []\n")


def test_no_step_waits_for_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, 3)
    folder.config.unlink()
    os.mkfifo(folder.config)  # whoever reads it waits until somebody writes
    others = set(descendants(os.getpid()))

    def writers() -> set[int]:
        return set(descendants(os.getpid())) - others

    log = Metrics(folder, "run", 3, Ops())
    log.write_samples([])
    (one,) = writers()
    for step in (4, 5):
        log.write({"step": step, "loss": 1.0})
        log.write_samples([])
    assert writers() == {one}, "one at a time"
    assert not folder.page.exists()
    folder.config.write_text('{"run": "run-behind-a-pipe", "train": {}}')
    wait_for(lambda: not writers(), 30)
    assert "run-behind-a-pipe" in folder.page.read_text()
    monkeypatch.setattr("trainer.report.process.APART", 1e6)
    log.write_samples([])
    assert not writers(), "not again so soon"
    log.close()


def test_a_disk_that_fills_up_under_the_event_file_is_the_volumes_fault(tmp_path: Path) -> None:
    program = """
import pathlib, sys
from trainer.errors import RunsFolderError
from trainer.event_file import EventFile
from trainer.schema.contract import RunFolder
log = EventFile(RunFolder(pathlib.Path(sys.argv[1])), 0)
try:
    for step in range(100_000):
        log.write({"step": step, "loss": 1.0})
except RunsFolderError as error:
    print(int(error.code), error)
"""
    said = on_tmpfs(tmp_path, "size=64k", program)
    assert said.startswith(f"7 {tmp_path}/tensorboard: No space left on device: make room there")


def test_tensorboard_has_the_same_numbers_and_forgets_what_is_trained_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for done, last in ((0, 3), (2, 4)):
        log = Metrics(folder, "run", done, Ops(tensorboard=True))
        for step in range(done + 1, last + 1):
            log.write({"step": step, "steps": 4, "loss": 0.5 * step, "lr": float("nan")})
        log.write({"step": last, "evaluation": {"loss": 0.25, "answer_loss": None}, "seconds": 8.0})
        log.close()
    told = events(folder)
    scalars = [(event.step, one.tag, one.simple_value) for event in told for one in event.summary.value]
    losses = [(step, value) for step, tag, value in scalars if tag == "training/loss"]
    assert losses == [(1, 0.5), (2, 1.0), (3, 1.5), (3, 1.5), (4, 2.0)]
    assert [value for _, tag, value in scalars if tag == "evaluation/loss"] == [0.25, 0.25]
    assert {tag for _, tag, _ in scalars} == {"training/loss", "evaluation/loss", "evaluation/seconds"}
    assert [event.step for event in told if event.HasField("session_log")] == [1, 3], "from where on it counts"
