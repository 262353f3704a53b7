"""kctl plan as a person types it: the screen, the table, the data, what it refuses; nothing is written anywhere."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kctl.cli import run
from kctl.config.run_config import load
from tests.bench_dataset import write_chameleons
from tests.unit.dataset_world import write_model
from tests.unit.test_plan_lengths import report_of, stats
from trainer.schema.loading import RunFile

GIB = 2**30
SIZED = ("--items", "72000", "--mean-tokens", "360")
DENSE = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without runs or configs of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCTL_LOCAL", raising=False)


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]) -> Any:
    """The words after `kctl plan` -> what -o json says."""

    def ask(*words: str) -> Any:
        assert run(["plan", *words, "-o", "json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return ask


def own_profile(folder: Path, **fields: Any) -> None:
    """A default profile of the reader's own."""
    (folder / "configs" / "clusters").mkdir(parents=True)
    profile = load("lora_di3", []).profile.model_dump(mode="json")
    (folder / "configs" / "clusters" / "default.yaml").write_text(json.dumps({**profile, **fields}))


def test_one_screen_answers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own_profile(tmp_path, price_per_gpu_hour=2.5)
    assert run(["plan", "lora_di3", *SIZED]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and len(shown.out.splitlines()) <= 24
    facts = dict(line.split(":", 1) for line in shown.out.splitlines() if ":" in line)
    assert "lora-di3-" in facts["Run"] and facts["Run"].endswith("on 8 h100-80")
    assert facts["Fits"].strip().startswith("yes, ") and "within 10 %" in facts["Fits"]
    assert "at most " in facts["Time"] and "50,650 steps, an epoch of 1,013" in facts["Time"]
    assert "GPU-hours at 2.5" in facts["Cost"]
    assert facts["Trains"].strip() == ("368,050,176 of 30,532,122,624 parameters: attention 53.5 M, experts 314.6 M")
    assert facts["Writes"].strip() == "an adapter of 1.4 GiB, checkpoints of 4.1 GiB"
    assert "64,800 items, 7,200 held out; 360 tokens" in facts["Data"]
    assert "--items 72000" in facts["From"] and "shipped sizes of Qwen3-30B-A3B-Instruct-2507" in facts["From"]
    assert "activations of the longest row" in shown.out
    assert list(tmp_path.iterdir()) == [tmp_path / "configs"]


def test_the_numbers_hang_together(planned: Any) -> None:
    found = planned("lora_di3", *SIZED)
    memory, time = found["memory"], found["time"]
    assert memory["needed_bytes"] == pytest.approx(sum(memory["parts_bytes"].values()), abs=10)
    assert memory["parts_bytes"]["weights"] == 2 * found["model"]["parameters"] == 2 * 30_532_122_624
    assert found["published_bytes"] == 4 * sum(found["trained"].values())
    assert time["tokens_per_s"] == pytest.approx(64 * found["data"]["mean_tokens"] / time["step_seconds"], rel=0.01)
    assert time["whole_seconds"] > found["steps"] * time["step_seconds"]
    assert time["gpu_hours"] == pytest.approx(8 * time["whole_seconds"] / 3600, rel=0.01) and time["cost"] is None
    assert found["steps"] == 50 * found["steps_per_epoch"] == 50 * -(-64_800 // 64)


def test_side_by_side(capsys: pytest.CaptureFixture[str], planned: Any) -> None:
    words = ["lora_di3_fast", "--compare", "lora_di3_best,full_di3", *SIZED]
    assert run(["plan", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["lora_di3_fast", "lora_di3_best", "full_di3"]
    rows = {line[:19].strip(): line[19:] for line in lines[1:]}
    assert rows["fits"].split() == ["yes", "yes", "no"]
    assert rows["trained"].split() == ["341.3", "M", "736.1", "M", "30,532.1", "M"]
    assert rows["experts"].split()[-1] == "-" and "cost" not in rows
    several = planned(*words)
    assert [one["memory"]["fits"] for one in several] == [True, True, False]


def test_other_cards_nodes_and_the_least_that_fits(planned: Any) -> None:
    small, large = planned("lora_di3", *SIZED), planned("lora_di3", *SIZED, "--gpu", "h200-141")
    assert (small["machine"], large["machine"]) == ("8 h100-80", "8 h200-141")
    assert large["memory"]["row_tokens"] >= small["memory"]["row_tokens"]
    two = planned("lora_di3", *SIZED, "--nodes", "2")
    assert (two["machine"], two["ranks"]) == ("2 nodes of 8 h100-80", 16)
    assert two["memory"]["parts_bytes"]["optimizer"] == small["memory"]["parts_bytes"]["optimizer"] / 2
    assert planned("lora_di3_attention", "--fit")["machine"] == "1 a100-80"
    assert planned("lora_di3_max", "--fit", "--gpu", "h200-141")["machine"] == "1 h200-141"
    large = planned("lora_di3_max", *SIZED)
    assert not large["memory"]["fits"] and large["advice"][0].startswith("weights and state take 70.3 GiB and a row")
    fitting = planned("full_di3", "--fit", "--gpu", "h200-141")
    assert fitting["memory"]["fits"] and fitting["machine"] == "8 h200-141"
    unfit = planned("full_di3", *SIZED)
    assert not unfit["memory"]["fits"] and "30.5 billion parameters need 64.0 GiB of state" in unfit["advice"][0]
    assert "it fits on " in unfit["advice"][1]


def test_more_gpus_than_a_step_has_work_for(planned: Any) -> None:
    (advice,) = (one for one in planned("lora_di3", *SIZED, "--nodes", "4")["advice"] if "half of the GPUs" in one)
    assert "--set cluster.nodes=2" in advice


def test_a_run_that_its_limit_would_end(planned: Any) -> None:
    found = planned("lora_di3", *SIZED, "--set", "cluster.max_hours=1", "--set", "train.evaluation.patience=null")
    assert any(one.startswith("cluster.max_hours 1 ends it before") for one in found["advice"])
    assert any("train.evaluation.patience would stop it early" in one for one in found["advice"])


def test_without_data_nothing_is_made_up_but_lengths(planned: Any) -> None:
    found = planned("lora_di3")
    assert (found["data"]["sure"], found["data"]["source"]) == ("guessed", "made up")
    assert found["steps"] is None
    assert found["time"]["step_seconds"] > 0 and found["time"]["whole_seconds"] is None
    assert "add --data FILE" in found["advice"][-1]


def test_sizes_from_a_folder_or_a_name(planned: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(DENSE))
    sets = ("--set", "train.model.path=team/private-8b", "--set", "cluster.gpus_per_node=1")
    found = planned("lora_di3_attention", *sets, "--model", "model")
    assert found["model"] == {"parameters": 8_030_261_248, "source": "model/config.json"}
    assert found == {**planned("lora_di3_attention", *sets, "--model", "Llama-3.1-8B"), "model": found["model"]}
    assert found["memory"]["sure"].startswith("unsure") and found["time"]["sure"].startswith("unsure")


def test_lengths_from_files(planned: Any, tmp_path: Path) -> None:
    write_chameleons(tmp_path / "train.json", 300)
    rough = planned("lora_di3", "--data", "train.json")
    assert rough["data"]["sure"] == "estimated" and rough["data"]["items"] > 50
    model = write_model(tmp_path / "model")
    (model / "config.json").write_text(json.dumps(DENSE))
    exact = planned("lora_di3", "--data", "train.json", "--model", str(model), "--set", "train.data.max_length=4096")
    assert exact["data"]["sure"] == "exact" and exact["data"]["items"] == rough["data"]["items"]
    (tmp_path / "stats.json").write_text(json.dumps(stats()))
    assert planned("lora_di3", "--stats", "stats.json")["data"]["items"] == 360
    (tmp_path / "report.json").write_text(report_of([300] * 640, validation=60).to_json())
    found = planned("lora_di3", "--stats", "report.json")
    assert (found["data"]["items"], found["data"]["held_out"], found["steps_per_epoch"]) == (640, 60, 10)


def test_a_file_and_its_stats_make_the_same_plan(
    planned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_chameleons(tmp_path / "train.json", 300)
    same = [word for one in ("sample=null", "max_length=4096") for word in ("--set", f"train.data.{one}")]
    assert run(["data", "stats", "train.json", "--config", "lora_di3", *same, "-o", "json"]) == 0
    (tmp_path / "stats.json").write_text(capsys.readouterr().out)
    file, counts = (planned("lora_di3", *same, name, path)["data"] for name, path in
                    (("--data", "train.json"), ("--stats", "stats.json")))  # fmt: skip
    assert counts["source"] == "train.json, by kctl data stats" and counts["sure"] == file["sure"] == "estimated"
    assert counts["items"] + counts["held_out"] == pytest.approx(file["items"] + file["held_out"], abs=5)
    assert counts["mean_tokens"] == pytest.approx(file["mean_tokens"], rel=0.03)


def earlier_run(root: Path, *sets: str, speeds: tuple[float, ...] = (50.0, 400.0, 500.0, 600.0)) -> str:
    """A finished local run of the demo, by what it leaves in its folder."""
    config = load("demo", list(sets)).config
    folder = root / ".kctl" / "runs" / config.run
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(RunFile(config.run, config.train).to_json())
    (folder / "data-report.json").write_text(report_of([100] * 160, validation=16).to_json())
    (folder / "result.json").write_text(json.dumps({"phase": "Succeeded", "ranks": 2}))
    lines = [{"step": step, "tokens_per_s": speed, "mem_gib": 1.5} for step, speed in enumerate(speeds, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 9, "loss": 1}]))
    return config.run


def test_it_learns_from_finished_runs_here(planned: Any, tmp_path: Path) -> None:
    before = planned("demo")
    assert before["time"] is None and before["memory"] is None
    name = earlier_run(tmp_path)
    found = planned("demo")
    assert found["data"]["source"] == f"the earlier run {name}" and found["data"]["items"] == 160
    assert found["time"]["tokens_per_s"] == 500 and name in found["time"]["sure"]
    assert found["time"]["step_seconds"] == pytest.approx(8 * 100 / 500, rel=0.03)
    assert planned("demo", "--set", "train.lora.rank=8")["time"] is None, "another adapter, another speed"
    assert planned("demo", "--set", "cluster.processes_per_node=1")["time"] is None, "other ranks"


@pytest.mark.parametrize("broken", ["config.json", "data-report.json", "metrics.jsonl", "result.json"])
def test_damaged_runs_are_as_if_they_were_not_there(planned: Any, tmp_path: Path, broken: str) -> None:
    name = earlier_run(tmp_path)
    for text in ('{"lengths": {"<=128": 3}, "train": 0}', "\udcff{", "[1]"):
        (tmp_path / ".kctl" / "runs" / name / broken).write_bytes(os.fsencode(text))
        assert planned("demo")["run"] == load("demo", []).config.run


REFUSED = [
    (["lora_di3", "--items", "5"], "--items and --mean-tokens go together"),
    (["lora_di3", *SIZED, "--data", "x"], "name one of them"),
    (["lora_di3", "--gpu", "h300"], "--gpu h300: there are: a100-40, "),
    (["lora_di3", "--model", "unheard-of"], "its sizes are not known here: add --model FOLDER"),
    (["lora_di3", "--model", "Qwen3-9B"], "e.g. Qwen3-"),
    (["lora_di3", "--set", "cluster.profile=cpu"], "the cluster profile has no GPUs (gpu: null): add --gpu, one of"),
    (["lora_di3", "--model", "."], "config.json: No such file or directory: --model takes a model's folder"),
    (["lora_di3", "--data", "none.json"], "none.json: no such file"),
    (["lora_di3", "--stats", "none.json"], "none.json: No such file or directory: --stats takes"),
    (["lora_di3", "--nodes", "9"], "global_batch_size: must be >= 72"),
    (["demo", "--gpu", "h100-80"], "runs on CPUs"),
    (["demo", "--fit"], "runs on CPUs"),
    (["lora_di3", "--items", "10", "--mean-tokens", "2000"], "train.data.max_length is 1024"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_it_refuses(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *words]) == (4 if "none.json" in words else 2)
    shown = capsys.readouterr()
    assert sentence in shown.err and shown.out == "" and shown.err.count("\n") == 1


def test_a_card_that_nobody_knows_has_memory_but_no_speed(planned: Any, tmp_path: Path) -> None:
    own_profile(tmp_path, gpu={"model": "Other 9000", "memory_gib": 96})
    found = planned("lora_di3", *SIZED)
    assert found["memory"]["gpu_bytes"] == 96 * GIB and found["time"] is None


def test_precision_and_kernels_that_were_never_timed(planned: Any) -> None:
    for field in ("train.precision=fp32", "train.ops.kernels=reference"):
        found = planned("lora_di3", *SIZED, "--set", field)
        assert found["time"] is None and found["memory"]["sure"].startswith("unsure")
