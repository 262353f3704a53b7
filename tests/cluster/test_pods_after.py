"""After a run: merged, brought home and asked, in pods of the run's own template, as a person does it."""

import json
import signal
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.cluster.team import Team
from tests.training.world import WORDS, write_dialogue
from trainer.adapters import verify_adapter

pytestmark = pytest.mark.timeout(900)
DATA = {
    "path": "train.json",
    "format": "chameleons",
    "validation": {"path": "held.json"},
    "prompt": {"task": "tell me", "instruction": "why not"},
    "max_length": 512,
}


@pytest.fixture(scope="module")
def run(team: Team) -> str:
    """A run that has succeeded, and a test file on the data volume."""
    for name, users in (("train.json", 6), ("held.json", 1), ("test.json", 2)):
        write_dialogue(team.volumes["data"] / name, WORDS, users=users, items=2)
    name = team.config("asked", data=DATA, epochs=1)
    team.ok("submit", "asked", "--wait")
    return name


def plainly_merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    state: dict[str, torch.Tensor] = merged.state_dict()
    return state


def test_merge_goes_on_without_its_reader_and_comes_home(team: Team, run: str) -> None:
    first = team.start("merge", "asked")
    team.until(lambda: f"pod/{run}-merge" in team.shell.kubectl("get", "pods", "-o", "name"), "the pod of the merge")
    first.send_signal(signal.SIGINT)
    _, err = first.communicate()
    assert first.returncode == 130 and f"its pod goes on: kctl merge {run} takes it up again" in err
    merged = team.ok("merge", "asked")
    assert f"done: /runs/{run}/merged" in merged.err and f"kctl pull {run} --merged" in merged.err
    assert f"already there: /runs/{run}/merged" in team.ok("merge", "asked").err
    home = team.root / team.ok("pull", "asked", "--merged").out.strip()
    verify_adapter(home)
    theirs = plainly_merged(team.volumes["models"] / "dense", team.folder(run).adapter)
    for name, ours in AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32).state_dict().items():
        assert (ours - theirs[name]).abs().max() <= 1e-6, name


def test_generate_brings_the_answers(team: Team, run: str) -> None:
    words = ("generate", "asked", "--set", "samples=2", "--set", "max_new_tokens=8")
    done = team.ok(*words, "--test", "test.json", "--out", "answers.json")
    assert done.out == "answers.json\n" and "answered 4 of 4 items (rank 0 of 1)" in done.err
    rows = json.loads((team.root / "answers.json").read_text())
    items = [item for row in rows for item in row["task"]["task_behavior_collections"][0]["data"]]
    assert [len(item["continuations"]) for item in items] == [2] * 4
    failed = team.kctl(*words, "--test", "absent.json", "--out", "other.json")
    assert failed.code == 3
    assert failed.err.splitlines()[-1].startswith("error: /data/absent.json: no such file: copy it to the data volume")
    assert not [name for name in team.shell.kubectl("get", "pods", "-o", "name").split() if "generate" in name]
