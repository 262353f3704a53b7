"""The whole product as a user drives it: kctl submit --local, logs, status, wait, cancel, pull, on tiny models.

The stories are in stories.py; the tests look at what they left.
"""

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.event_files import events
from tests.training.naive_losses import naive_losses
from tests.training.stories import (
    MAIN,
    Stories,
    tell_all,
)
from tests.unit.test_report import Reader
from trainer.adapters import verify_adapter
from trainer.dataset.prepare import prepare
from trainer.dataset.prepared import load_prepared
from trainer.report.page import printable
from trainer.schema.loading import read_run_file

pytestmark = pytest.mark.timeout(900)  # everything happens in the first test's fixture


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory, qwen3_folder: Path) -> Iterator[Stories]:
    yield from tell_all(tmp_path_factory.mktemp("end-to-end"), qwen3_folder)


def test_a_plan_after_a_run_here_is_as_fast_as_that_was(stories: Stories) -> None:
    world = stories.world
    run, model = world.run("main"), str(world.models / "dense-qwen3")
    page = world.ok("plan", "main", "--model", model).out
    assert f"tokens/s (as fast as {run} was here)" in page and f"lengths: the earlier run {run}" in page
    assert re.search(rf"took \d\.\d GiB a process in {run} here", page)
    found = json.loads(world.ok("plan", "main", "--model", model, "-o", "json").out)
    speeds = [line["tokens_per_s"] for line in world.records("main") if "tokens_per_s" in line]
    assert min(speeds) <= found["time"]["tokens_per_s"] <= max(speeds) and found["steps"] == 6
    slower = json.loads(world.ok("plan", "main", "--model", model, "--set", "train.lora.rank=4", "-o", "json").out)
    assert slower["time"] is None, "no run like it was here"


def test_the_run_succeeds_and_its_log_says_what_it_did(stories: Stories) -> None:
    done, world = stories.done["main"], stories.world
    run = world.run("main")
    assert done.code == 0, done.out + done.err
    assert f"run {run} succeeded; kctl pull {run} --local" in done.err
    said = [line for line in done.out.splitlines() if line]
    assert said[0] == f"pytorchjob.kubeflow.org/{run} created"
    assert said[1:3] == [f"run {run}, node 0 of 1", f"attempt 1 of {run}, newest checkpoint: none"]
    versions = next(index for index, line in enumerate(said) if line.startswith("torch "))
    assert re.match(r"torch \S+ transformers \S+ peft \S+ deepspeed \S+; 2 ranks on cpu; packed rows", said[versions])
    assert re.match(r"trained 14,848 beside 9,785,728 .*attention 7,168, mlp 7,680", said[versions + 1])
    assert said[versions + 2].startswith("48 items, 8 a step over 2 ranks: 6 steps an epoch, 6 steps; rows of at most")
    assert "dropout > 0: another number of ranks draws other masks" in said[versions + 3]
    number = r"\d+\.\d{4} lr=\d\.\de-\d\d grad_norm=\d+\.\d\d tokens_per_s=\d+ mem_gib=\d+\.\d eta_s=\d+"
    steps = [line for line in said if line.startswith("step=")]
    assert [line.split()[0] for line in steps] == ["step=1/6", "step=2/6", "step=4/6", "step=6/6"]
    assert all(re.fullmatch(rf"step=\d/6 loss={number}", line) for line in steps)
    assert said[-1] == "Succeeded: the run is done (code 0)"
    assert world.log("main").splitlines() == done.out.splitlines()[1:]


def test_the_runs_folder_is_complete(stories: Stories) -> None:
    folder, world = stories.world.folder("main"), stories.world
    steps = [record for record in world.records("main") if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    evaluations = {record["step"]: record["evaluation"] for record in world.records("main") if "evaluation" in record}
    assert list(evaluations) == [0, 6] and evaluations[6]["loss"] < 0.95 * evaluations[0]["loss"]
    samples = [json.loads(line) for line in folder.samples.read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [0, 0, 6, 6]
    known = {"step", "item", "prompt_tail", "reference", "answer"}
    assert all(sample.keys() == known for sample in samples[:2])
    assert all(sample.keys() == {*known, "before"} for sample in samples[2:])
    assert [sample["before"] for sample in samples[2:]] == [sample["answer"] for sample in samples[:2]]
    report = json.loads(folder.report.read_text())
    assert (report["train"], report["validation"]) == (48, 9)
    result = world.result("main")
    assert result["phase"] == "Succeeded" and result["code"] == 0 and result["step"] == result["best_step"] == 6
    assert result["before"] == evaluations[0] and result["after"] == evaluations[6]
    assert result["eval_loss"] == evaluations[6]["loss"]
    for adapter in (folder.adapter, folder.adapter_last):
        verify_adapter(adapter)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step-000004"]
    hidden = [path for path in folder.root.rglob(".*")]
    assert not hidden, "temporary files are left"
    card = (folder.adapter / "README.md").read_text()
    assert f"| loss | {evaluations[0]['loss']:.4f} | {evaluations[6]['loss']:.4f} |" in card


def test_with_nothing_held_out_the_last_adapter_is_the_best(stories: Stories) -> None:
    folder, result = stories.world.folder("unjudged"), stories.world.result("unjudged")
    assert stories.done["unjudged"].code == 0, stories.done["unjudged"].err
    assert result["best_step"] == result["step"] == result["steps"] > 0 and result["before"] == result["after"] == {}
    verify_adapter(folder.adapter)
    weights = [path / "adapter_model.safetensors" for path in (folder.adapter, folder.adapter_last)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_wandb_offline_holds_the_same_history(stories: Stories) -> None:
    (store,) = stories.world.folder("main").root.glob("wandb/offline-run-*/run-*.wandb")
    told = store.read_bytes()
    losses = [record["loss"] for record in stories.world.records("main") if "loss" in record]
    assert losses and all(json.dumps(loss).encode() in told for loss in losses)


def test_event_files_hold_it_too(stories: Stories) -> None:
    folder = stories.world.folder("main")
    told = [(event.step, one.tag, one.simple_value) for event in events(folder) for one in event.summary.value]
    for record in stories.world.records("main"):
        losses = {"evaluation/loss": record["evaluation"]["loss"]} if "evaluation" in record else {}
        for tag, loss in losses.items() or [("training/loss", record["loss"])]:
            assert (record["step"], tag, pytest.approx(loss)) in told


def test_kctl_tells_the_same_everywhere(stories: Stories) -> None:
    world, run = stories.world, stories.world.run("main")
    status, result = world.status("main"), world.result("main")
    assert (status["run"], status["phase"], status["step"], status["steps"]) == (run, "Succeeded", 6, 6)
    assert status["loss"] == result["loss"] and status["attempt"] == 1
    page = world.ok("status", run, "--local").out
    assert f"Next:     kctl pull {run} --local" in page and "6/6" in page
    listed = {job["run"]: job for job in json.loads(world.ok("list", "--local", "-o", "json").out)}
    assert len(listed) == 6 and listed[run] == status
    assert world.ok("logs", run, "--local").out == world.log("main")
    assert f"run {run} succeeded" in world.ok("wait", run, "--local").err


def test_the_adapter_comes_home_and_plain_peft_gives_the_recorded_loss(stories: Stories, tmp_path: Path) -> None:
    world, run = stories.world, stories.world.run("main")
    first = world.ok("pull", "main", "--local")
    assert first.out == f"adapters/{run}\n" and "sha256 checked" in first.err and "already" not in first.err
    assert "already there" in world.ok("pull", "main", "--local").err
    home, source = world.root / "adapters" / run, world.folder("main").adapter
    assert {path.name: path.read_bytes() for path in home.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    train = read_run_file(world.folder("main").config).train
    base = world.models / "dense-qwen3"
    prepare(train.data, world.data, base, tmp_path / "prepared", lambda text: None)
    held = load_prepared(tmp_path / "prepared").validation
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    assert naive_losses(plain, held) == pytest.approx(recorded(world.result("main")["before"]), rel=1e-4)
    model = PeftModel.from_pretrained(plain, home)
    assert naive_losses(model, held) == pytest.approx(recorded(world.result("main")["after"]), rel=1e-4)
    assert len({held.user(item) for item in range(len(held))}) == 3


def test_the_report_is_there_and_comes_home(stories: Stories) -> None:
    world, run, folder = stories.world, stories.world.run("main"), stories.world.folder("main")
    page, result = Reader(folder.page.read_text()).text, world.result("main")
    for words in (run, "Succeeded", f"{result['after']['loss']:.4f}", "succeeded (code 0)", "train.json", "torch 2."):
        assert words in page, words
    answers = [json.loads(line)["answer"] for line in folder.samples.read_text().splitlines()]
    assert len(answers) == 4 and all(printable(answer) in page for answer in answers)
    assert folder.picture.read_bytes().startswith(b"\x89PNG")
    assert f"report: adapters/{run}.html" in world.ok("pull", "main", "--local").err
    assert (world.root / "adapters" / f"{run}.html").read_bytes() == folder.page.read_bytes()
    shown = json.loads(world.ok("adapters", "show", "main", "--local", "-o", "json").out)
    assert (shown["loss"], shown["step"]) == (result["after"]["loss"], result["best_step"]) and shown["data_digest"]
    diverged = world.ok("report", "diverging", "--local").out
    assert diverged == f"adapters/{world.run('diverging')}.html\n"
    assert "lower train.optim.lr" in (world.root / diverged.strip()).read_text()


def recorded(losses: dict[str, float]) -> tuple[float, float]:
    return losses["loss"], losses["macro_loss"]


def test_done_stays_done(stories: Stories) -> None:
    world, run, folder = stories.world, stories.world.run("main"), stories.world.folder("main").root
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = world.ok("submit", "main", "--local", "--follow")
    assert again.out == "" and f"run {run} has succeeded already, nothing to do; kctl pull {run} --local" in again.err
    shutil.rmtree(world.root / ".kctl" / "jobs" / run)
    forgotten = world.ok("submit", "main", "--local", "--follow")
    assert f"{run} has succeeded already; nothing to do: kctl pull {run}" in forgotten.out
    assert "step=" not in forgotten.out and world.status("main")["phase"] == "Succeeded"
    code, output = world.launch("main")
    assert code == 0 and f"{run} has succeeded already; nothing to do: kctl pull {run}" in output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_that_was_interrupted_three_times_equals_the_whole_one(stories: Stories) -> None:
    world = stories.world
    assert stories.done["whole"].code == 0 and stories.done["torn"].code == 0, stories.done["torn"].out[-3000:]
    whole, torn = world.records("whole"), world.records("torn")
    numbers = ("step", "loss", "lr", "grad_norm", "evaluation")
    first, second = ([{name: one.get(name) for name in numbers} for one in run] for run in (whole, torn))
    assert first == second, "to the bit"
    steps = [record["step"] for record in torn if "loss" in record]
    assert steps == list(range(1, len(steps) + 1)) and 24 <= len(steps) < 120
    for name in ("adapter", "adapter-last"):
        one, other = (
            load_file(world.folder(run).root / name / "adapter_model.safetensors") for run in ("whole", "torn")
        )
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    assert world.folder("whole").samples.read_text() == world.folder("torn").samples.read_text()
    assert "not moved" not in world.log("whole"), "what is trained moves"


def test_each_interruption_is_told_and_resumed_from_its_checkpoint(stories: Stories) -> None:
    world, done, status, run = stories.world, stories.done, stories.status, stories.world.run("torn")
    assert [one["code"] for one in json.loads(world.folder("torn").attempts.read_text())] == [9, None, 143, 0]
    begun = [re.search(r"resumed from step-(\d+)", world.log("torn", attempt)) for attempt in (1, 2, 3, 4)]
    assert begun[0] is None, "nothing to resume from"
    first, second, third = (int(found[1]) for found in begun if found)
    assert 2 <= first < 6 <= second < 14 <= third
    late = status["late"]
    assert done["late"].code == 3 and late["code"] == 9 and late["step"] == first and late["phase"] == "Failed"
    assert f"max_hours is over at step {first}; saved: raise cluster.max_hours and submit again" in late["sentence"]
    assert f"failed (code 9): {late['sentence']}" in done["late"].err
    assert status["killed"]["phase"] == "Failed"
    assert "the supervisor is gone; submit again to resume" in status["killed"]["sentence"]
    assert f"run {run} has ended (Failed): it is created again and resumes" in done["resubmit"].err
    assert done["cancel"].code == 0 and done["cancel"].out == f"pytorchjob.kubeflow.org/{run} cancelled\n"
    cancelled = status["cancelled"]
    assert cancelled["phase"] == "Cancelled" and cancelled["step"] == third
    assert [pod["code"] for pod in cancelled["pods"]] == [143]
    assert f"stopped at step {third} as asked; saved: submit again" in cancelled["sentence"]
    assert done["wait cancelled"].code == 3 and f"run {run} was cancelled" in done["wait cancelled"].err
    assert world.status("torn")["phase"] == "Succeeded"


def test_early_stopping_keeps_the_best_adapter(stories: Stories) -> None:
    world, result = stories.world, stories.world.result("whole")
    evaluations = {one["step"]: one["evaluation"]["loss"] for one in world.records("whole") if "evaluation" in one}
    del evaluations[0]
    best = min(evaluations, key=lambda step: evaluations[step])
    assert result["best_step"] == best and result["after"]["loss"] == evaluations[best] == result["eval_loss"]
    assert result["step"] == max(evaluations) and result["step"] > best
    said = f"early stop at step {result['step']}: 2 evaluations without a gain, best step {best}"
    assert said in world.log("whole") and said in stories.done["torn"].out
    for name, step in (("adapter", best), ("adapter-last", result["step"])):
        folder = world.folder("whole").root / name
        verify_adapter(folder)
        assert json.loads((folder / "MANIFEST.json").read_text())["step"] == step


def test_two_nodes_start_again_when_one_loses_its_rank(stories: Stories) -> None:
    """All parameters under ZeRO-3, one process on each node."""
    world, done, run = stories.world, stories.done["full"], stories.world.run("full")
    assert done.code == 0, done.out[-5000:] + done.err
    said = done.out.splitlines()
    assert any(line.startswith("worker-0 | ") for line in said) and any(line.startswith("worker-1 | ") for line in said)
    assert "another node is gone" in world.log("full", 1, 0) and "killed? out of host memory?" in world.log(
        "full", 1, 1
    )
    resumed = re.search(r"resumed from step-(\d+)", world.log("full", 2))
    assert resumed and int(resumed[1]) >= 3 and f"worker-0 | {resumed[0]}" in said
    codes = [one["code"] for one in json.loads(world.folder("full").attempts.read_text())]
    assert len(codes) == 2 and codes[0] >= 128 and codes[1] == 0
    status = world.status(run)
    assert status["phase"] == "Succeeded" and [pod["code"] for pod in status["pods"]] == [0, 0]
    steps = [record for record in world.records("full") if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 25)) and steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    folder = world.folder("full").adapter_last
    verify_adapter(folder)
    trained = AutoModelForCausalLM.from_pretrained(folder).model.layers[0].mlp.up_proj.weight
    base = AutoModelForCausalLM.from_pretrained(world.models / "dense").model.layers[0].mlp.up_proj.weight
    assert trained.dtype == torch.bfloat16 and not torch.equal(trained, base.bfloat16())


def test_a_run_that_diverges_says_so(stories: Stories) -> None:
    status, done = stories.status["diverging"], stories.done["diverging"]
    assert done.code == 3 and status["code"] == 5 and status["phase"] == "Failed"
    assert re.search(r"step 6: loss \d.*, gradient norm inf: steps 1 to 6 had no usable loss or gradient", done.err)
    assert "there is no checkpoint to go back to: lower train.optim.lr or" in done.err
    result = stories.world.result("diverging")
    assert result["phase"] == "Failed" and result["code"] == 5 and result["attempt"] == 1
    before, *steps = stories.world.records("diverging")
    assert [step["grad_norm"] for step in steps] == [None] * 6
    assert math.isfinite(before["evaluation"]["loss"]), "of the base model"


def test_a_dry_run_shows_everything_and_writes_nothing(stories: Stories) -> None:
    world = stories.world
    world.config("dry", **{**MAIN, "seed": 7})
    left = set((world.root / "tmp").glob("kctl-*"))  # of the run that was killed
    code, output = world.launch("dry", "--dry-run")
    assert code == 0, output
    assert "kept: training items 48, validation items 9" in output
    assert "<|im_start|>assistant" in output and "<<frame|" in output and "<<answer|" in output
    assert "attention 7,168, mlp 7,680" in output and "48 items, 8 a step over 2 ranks" in output
    assert "dry run: everything needed is there; nothing was trained or written" in output
    assert not list((world.root / ".kctl" / "runs").glob("dry-*"))
    assert set((world.root / "tmp").glob("kctl-*")) == left
