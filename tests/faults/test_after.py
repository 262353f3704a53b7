"""kctl merge, export, pull of both and generate on a run of this machine, as a user types them."""

import json
import shutil
import signal
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.answering_run import answering_run
from tests.training.finished_runs import FinishedRun
from tests.training.world import World, make_world, wait_for
from trainer.adapters import verify_adapter
from trainer.schema.loading import read_run_file

PROFILE = """
image: example.org/trainer@sha256:{zeros}
volumes: {{models: {{claim: models}}, data: {{claim: data}}, runs: {{claim: runs}}}}
cpu: 1
memory: 1Gi
shm: 64Mi
pod_patch: {{containers: [{{name: pytorch, command: [python, -c, pass, trainer.launch]}}]}}
"""
SAMPLING = ("--set", "samples=2", "--set", "max_new_tokens=16")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, FinishedRun]]:
    """A working directory with a run that has succeeded: its pod did nothing, its folder is there."""
    root = tmp_path_factory.mktemp("after")
    (root / "made").mkdir()
    made = answering_run(root / "made")
    with make_world(root / "world") as world:
        shutil.rmtree(world.root / ".kctl")
        shutil.copytree(made.root, world.root / ".kctl")
        (world.root / "configs" / "clusters").mkdir()
        (world.root / "configs" / "clusters" / "quick.yaml").write_text(PROFILE.format(zeros="0" * 64))
        train = read_run_file(made.folder.config).train.model_dump(mode="json", exclude_defaults=True)
        cluster = {"profile": "quick", "gpus_per_node": 0, "processes_per_node": 1}
        config = {"name": "tiny", "train": train, "cluster": cluster}
        (world.root / "configs" / "tiny.yaml").write_text(json.dumps(config))
        world.ok("submit", "tiny", "--local", "--wait")
        yield world, FinishedRun(world.root / ".kctl", made.run)


def test_merge_and_pull(told: tuple[World, FinishedRun]) -> None:
    world, made = told
    refused = world.kctl("pull", "tiny", "--merged", "--local")
    assert refused.code == 4 and "no merged there: first: kctl merge" in refused.err
    process = world.start("merge", "tiny", "--local")
    wait_for(lambda: world.pids("", "trainer.merge"))
    process.send_signal(signal.SIGINT)  # Ctrl-C
    _, err = process.communicate()
    assert process.returncode == 130
    assert f"what is done is kept: kctl merge {made.run} --local takes it up again" in err
    wait_for(lambda: not world.pids("", "trainer.merge"))  # the kernel ends it with kctl, if kctl could not
    done = world.ok("merge", "tiny", "--local")
    assert f"done: {made.folder.merged}\nbring it home: kctl pull {made.run} --merged --local\n" in done.err
    home = world.root / "adapters" / f"{made.run}-merged"
    assert world.ok("pull", "tiny", "--merged", "--local").out == f"adapters/{home.name}\n"
    verify_adapter(home)
    theirs = made.merged_by_peft().state_dict()
    for name, ours in AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32).state_dict().items():
        assert (ours - theirs[name]).abs().max() <= 1e-6, name


def test_export_and_pull(told: tuple[World, FinishedRun]) -> None:
    world, made = told
    done = world.ok("export", "tiny", "--local")
    assert f"done: {made.folder.exported}: " in done.err and "the same as the adapter on random inputs" in done.err
    home = world.ok("pull", "tiny", "--exported", "--local").out.strip()
    verify_adapter(world.root / home)
    assert home == f"adapters/{made.run}-exported"
    both = world.kctl("pull", "tiny", "--exported", "--merged", "--local")
    assert both.code == 2 and "name one of them" in both.err


def test_generate(told: tuple[World, FinishedRun]) -> None:
    world, made = told
    words = ("generate", "tiny", "--local", "--test", "test.json", *SAMPLING, "--out")
    done = world.ok(*words, "here/answers.json")
    assert done.out == "here/answers.json\n" and "answered 8 of 15 items (rank 0 of 1)" in done.err
    value = json.loads((world.root / "here" / "answers.json").read_text())
    (dialogue,) = value[1]["task"]["task_behavior_collections"]
    assert [len(item["continuations"]) for item in dialogue["data"]] == [2, 2, 2]
    assert (made.folder.generated / "answers.summary.json").is_file()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--test", "test.json", "--out", "x.txt"), 2, "the file's name must be letters, digits"),
        (("--test", "test.json", "--out", "configs/tiny.json", "--set", "heat=1"), 2, "unknown key 'heat'"),
        (("--test", "test.json", "--out", "x.json", "--set", "top_p=2"), 2, "top_p: must be <= 1.0, got 2"),
    ],
)
def test_what_generate_refuses(
    told: tuple[World, FinishedRun], words: tuple[str, ...], code: int, sentence: str
) -> None:
    done = told[0].kctl("generate", "tiny", "--local", *words)
    assert done.code == code and sentence in done.err.splitlines()[-1], done.err
