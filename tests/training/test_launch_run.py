"""Whole attempts: the launcher as a process, with programs of ours in place of the ranks."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.unit.launch_world import (
    DEAF,
    LAUNCH,
    OBEDIENT,
    PARENT,
    PUBLISH,
    ROOT,
    World,
    log_has,
    make_world,
    wait_for,
    write_tokenizer,
)
from trainer.pod.attempts import Attempt
from trainer.pod.ownership import Owner, start_ticks
from trainer.pod.ranks import TORCHRUN, descendants

OUT_OF_MEMORY = """
import os, sys
from trainer.pod import outcome
outcome.progress(2, 7, 1.5, None)
outcome.report(4, "needs 90 GiB, has 80")
sys.exit(1)
"""
CRASH = "import os; os.kill(os.getpid(), 9)"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    write_tokenizer(world.root / "models" / "tiny")
    return world


def test_success_is_on_record_and_done_stays_done(world: World) -> None:
    code, output = world.launch(PUBLISH)
    assert code == 0, output
    assert "kept: training items" in output and "trained by plan 0" in output
    assert world.folder.log(1, 0).read_text() == output.rstrip("\n") + "\n"
    result = world.json("result.json")
    assert result["phase"] == "Succeeded" and result["best_step"] == 5 and result["attempt"] == 1
    assert {name: result[name] for name in ("step", "steps", "loss", "eval_loss")} == {
        "step": 7,
        "steps": 7,
        "loss": 1.25,
        "eval_loss": None,
    }
    assert world.json("owner.json")["released"] and world.json("attempts.json")[0]["code"] == 0
    assert world.json("data-report.json") and world.json("config.json")["run"] == world.file.run
    assert not list((world.root / "tmp").iterdir())
    before = {path: path.stat().st_mtime_ns for path in world.folder.root.rglob("*")}
    # Again, as GitOps would: without the model, the data and a rank that could run.
    program = (
        "import sys; sys.argv = ['x']; from trainer.launch import main; code = main(); print(code, sorted(sys.modules))"
    )
    again = {**world.environ, "TRAINER_MODELS": "/none", "TRAINER_DATA": "/none"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=again, cwd=ROOT, capture_output=True, text=True, check=True
    )
    _, said, loaded = done.stdout.splitlines()
    assert f"{world.file.run} has succeeded already; nothing to do: kctl pull {world.file.run}" in said
    assert loaded.startswith("0 [") and "'trainer.launch'" in loaded
    assert not any(f"'{name}'" in loaded for name in ("torch", "transformers", "trainer.dataset", "tokenizers"))
    assert {path: path.stat().st_mtime_ns for path in world.folder.root.rglob("*")} == before
    assert world.message()["phase"] == "Succeeded" and world.message()["step"] == 7


def test_out_of_memory_gets_one_more_start_with_the_smaller_plan(world: World) -> None:
    first_fails = f"import os\nif os.environ['TRAINER_PLAN'] == '0':\n    exec({OUT_OF_MEMORY!r})\n{PUBLISH}"
    code, output = world.launch(first_fails)
    assert code == 0 and "starting once more with memory plan 1" in output and "trained by plan 1" in output
    assert world.json("plan.json") == {"level": 1, "reason": "needs 90 GiB, has 80"}
    assert [entry["code"] for entry in world.json("attempts.json")] == [0]


def test_out_of_memory_twice_is_permanent_and_a_new_submit_starts_over(world: World) -> None:
    code, output = world.launch(OUT_OF_MEMORY)
    assert code == 4 and world.message()["sentence"] == "needs 90 GiB, has 80", output
    assert world.json("result.json")["phase"] == "Failed" and world.json("result.json")["step"] == 2
    code, output = world.launch(PUBLISH)
    assert code == 0 and "trained by plan 0" in output and "waiting" not in output
    assert [entry["code"] for entry in world.json("attempts.json")] == [4, 0]


def test_a_stop_is_obeyed_saved_and_not_counted(world: World) -> None:
    process = world.start(OBEDIENT)
    wait_for(log_has(world, "rank is up"))
    process.terminate()
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 143 and "stopping: preempted" in output
    assert world.message() | {"step": 3, "phase": "Restarting", "sentence": "saved at step 3"} == world.message()
    assert world.json("attempts.json")[0]["code"] == 143 and not world.folder.result.exists()
    assert world.json("owner.json")["released"] and not list((world.root / "tmp").iterdir())


def test_a_file_in_the_run_folder_asks_for_a_stop_once(world: World) -> None:
    process = world.start(OBEDIENT)
    wait_for(log_has(world, "rank is up"))
    world.folder.stop.touch()
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 143 and "stopping: preempted" in output
    assert world.message()["sentence"] == "saved at step 3" and world.message()["phase"] == "Restarting"
    code, output = world.launch(PUBLISH)
    assert code == 0 and not world.folder.stop.exists() and "waiting" not in output


@pytest.mark.parametrize("node", ["0", "1"])
def test_an_annotation_of_any_pod_asks_for_a_stop(world: World, node: str) -> None:
    """As the kubelet shows it: an empty file while the pod has no such annotation."""
    wish = world.root / "wish"
    wish.touch()
    process = world.start(OBEDIENT, PET_NODE_RANK=node, PET_NNODES="2", TRAINER_STOP_WISH=str(wish))
    wait_for(lambda: any("rank is up" in path.read_text() for path in world.folder.logs.glob("*.log")))
    assert process.poll() is None
    wish.write_text("now")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 143 and "stopping: preempted" in output
    assert world.message()["sentence"] == "saved at step 3" and world.message()["phase"] == "Restarting"
    code, output = world.launch(PUBLISH, TRAINER_STOP_WISH=str(world.root / "of-the-next-pod"))
    assert code == 0 and "waiting" not in output


@pytest.mark.parametrize("stubborn", ["", "1"])
def test_ranks_that_do_not_obey_are_ended_within_the_grace(world: World, stubborn: str) -> None:
    process = world.start(DEAF, TRAINER_GRACE_SECONDS="2", STUBBORN=stubborn)
    wait_for(log_has(world, "rank is up"))
    ranks = descendants(process.pid)
    assert len(ranks) == 2
    began = time.monotonic()
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 143 and 0.9 < time.monotonic() - began < 3.0
    assert not any(start_ticks(pid) for pid in ranks)
    assert "before it could save" in world.message()["sentence"]


def test_a_second_signal_ends_the_ranks_at_once(world: World) -> None:
    process = world.start(DEAF)
    wait_for(log_has(world, "rank is up"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.4)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 143 and time.monotonic() - began < 2.0


def test_the_time_limit_saves_and_is_permanent(world: World) -> None:
    code, output = world.launch(OBEDIENT, TRAINER_MAX_HOURS="0.0004")
    assert code == 9 and "stopping: time-limit" in output
    assert world.json("result.json") | {"code": 9, "phase": "Failed", "step": 3} == world.json("result.json")


def test_a_killed_launcher_takes_its_ranks_along_and_is_followed_at_once(world: World) -> None:
    process = world.start(DEAF)
    wait_for(log_has(world, "rank is up"))
    ranks = descendants(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(start_ticks(pid) for pid in ranks), 5)
    began = time.monotonic()
    heir = world.start(PUBLISH)
    wait_for(log_has(world, "the attempt before failed: waiting 10 s", attempt=2))
    heir.terminate()  # also: a signal ends the back-off
    output, _ = heir.communicate(timeout=10)
    assert heir.returncode == 143 and time.monotonic() - began < 6.0
    assert "stood still" not in output and "told to stop before training began" in output
    killed, stopped = world.json("attempts.json")
    assert killed["code"] is None and 0 < killed["seconds"] < 30 and stopped["code"] == 143


def test_a_changed_chat_template_is_said(world: World) -> None:
    code, output = world.launch(CRASH)
    assert code == 152 and "chat template is not" not in output
    world.folder.attempts.unlink()  # or it would wait for 10 s
    code, output = world.launch(CRASH)
    assert "chat template is not" not in output
    world.folder.attempts.unlink()
    config = world.root / "models" / "tiny" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("assistant", "helper"))
    code, output = world.launch(PUBLISH)
    assert code == 0
    assert "models/tiny: tokenizer or chat template is not what the attempt before had (tokenizer.json, " in output
    assert "put the old files back, or raise train.revision" in output


def test_three_attempts_without_a_checkpoint_close_the_series(world: World) -> None:
    world.folder.root.mkdir()
    crashes = [Attempt(number, "p", 0, 152, "the GPU fell off") for number in (1, 2, 3)]
    world.folder.attempts.write_text(json.dumps([asdict(one) for one in crashes]))
    code, output = world.launch(PUBLISH)
    assert code == 8 and "3 attempts brought no new checkpoint" in output and "the GPU fell off" in output
    assert world.json("result.json")["code"] == 8
    code, output = world.launch(CRASH)
    assert code == 152 and "killed? out of host memory?" in output and "waiting" not in output
    assert world.message()["phase"] == "Restarting" and not world.folder.result.exists()
    assert [entry["code"] for entry in world.json("attempts.json")] == [152, 152, 152, 8, 152]


def test_another_owner_ends_this_one_without_a_word_in_the_books(world: World) -> None:
    process = world.start(DEAF)
    wait_for(log_has(world, "rank is up"))
    other = asdict(Owner("pod-b", 2, 0, "node-7", 1, 1))
    world.folder.owner.write_text(json.dumps(other))
    process.communicate(timeout=20)
    assert process.returncode == 138 and "another pod owns this run now" in world.message()["sentence"]
    assert world.json("owner.json") == other and world.json("attempts.json")[0]["code"] is None


def test_a_dry_run_writes_nothing(world: World) -> None:
    code, output = world.launch(
        "import os; print('counts', os.path.isdir(os.environ['TRAINER_PREPARED']))", "--dry-run"
    )
    assert code == 0, output
    assert "kept: training items" in output and "<|im_start|>assistant" in output and "counts True" in output
    assert "dry run: everything needed is there" in output
    assert not list((world.root / "runs").iterdir()) and not list((world.root / "tmp").iterdir())


def test_what_nobody_foresaw_is_a_code_a_sentence_and_a_traceback_in_the_log(world: World) -> None:
    odd = LAUNCH.replace("sys.argv[3]]", "3]")
    run = [sys.executable, "-c", odd, "[]", PARENT]
    done = subprocess.run(run, env=world.environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 152 and "the launcher failed: TypeError" in world.message()["sentence"]
    assert "Traceback" in world.folder.log(1, 0).read_text()
    assert world.json("attempts.json")[0]["code"] == 152 and world.json("owner.json")["released"]


def test_a_success_that_cannot_be_recorded_is_no_success(world: World) -> None:
    fill = "import os\nwith open(os.environ['TRAINER_RUN_FOLDER'] + '/filler', 'wb', 0) as f:\n    try:\n"
    fill += "        while True: f.write(bytes(4096))\n    except OSError: pass\n"
    fill += "from trainer.pod import outcome; outcome.success({'step': 1})"
    mount = 'mount -t tmpfs -o size=2m tmpfs "$TRAINER_RUNS" && exec "$@"'
    launch = [sys.executable, "-c", LAUNCH, "[]", PARENT, fill]
    unshare = ["unshare", "-r", "-m", "sh", "-c", mount, "sh", *launch]
    done = subprocess.run(unshare, env=world.environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "result.json: No space left on device: make room there" in world.message()["sentence"]


def test_with_the_real_torchrun(world: World) -> None:
    rank = world.root / "rank.py"
    rank.write_text(OBEDIENT.replace('"rank is up"', '"rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"]'))
    command = [*TORCHRUN, "--master-addr", "127.0.0.1", "--master-port", "0", str(rank)]
    launch = LAUNCH.replace('[sys.executable, "-c", sys.argv[2], sys.argv[3]]', f"{command!r}")
    operator = {
        "RANK": "7",
        "WORLD_SIZE": "9",
        "PET_NPROC_PER_NODE": "2",
        "PET_STANDALONE": "",
        "TRAINER_GRACE_SECONDS": "90",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", launch, "[]"], env={**world.environ, **operator}, cwd=ROOT, stdout=subprocess.DEVNULL
    )
    wait_for(lambda: log_has(world, "rank 0 of 2")() and log_has(world, "rank 1 of 2")(), 180)
    process.terminate()
    assert process.wait(120) == 143 and world.message()["sentence"] == "saved at step 3"


def test_data_that_is_no_data_ends_with_its_code_on_record(world: World) -> None:
    (world.root / "data" / "train.jsonl").write_bytes(b'{"prompt": "a", "completion": "b"}\n{"prompt": \xff')
    code, output = world.launch("pass")
    assert code == 3 and "train.jsonl" in output and "Traceback" not in output
    assert world.json("result.json")["phase"] == "Failed" and world.json("result.json")["code"] == 3
    assert world.json("attempts.json")[-1]["code"] == 3 and world.json("owner.json")["released"]
    assert not list((world.root / "tmp").iterdir())
    assert world.message()["code"] == 3
