"""Every wrong input that the launcher sees before torchrun: one sentence, the remedy in it, the contract's code."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.unit.launch_world import World, make_world, train_config
from tests.unit.test_launch_atomic import on_tmpfs
from trainer import base_model
from trainer.base_model import base_digest
from trainer.errors import ConfigError, DataError, RunsFolderError
from trainer.pod import preconditions
from trainer.pod.environment import read_pod, scratch
from trainer.pod.ranks import rank_environment, torchrun
from trainer.schema.contract import RunFolder
from trainer.schema.identity import run_name
from trainer.schema.loading import RunFile


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def test_missing_packages_are_named_with_the_install_command() -> None:
    train = train_config()
    preconditions.check_packages(train, ("json", "os"))
    with pytest.raises(ConfigError, match=r"has no no_such_one, no_such_two: pip install 'kctl\[trainer\]'"):
        preconditions.check_packages(train, ("json", "no_such_one", "no_such_two"))
    told = train_config(ops={"wandb": {"project": "p"}})
    with pytest.raises(ConfigError, match=r"pip install 'kctl\[trainer,wandb\]'"):
        preconditions.check_packages(told, ("no_such_one",))


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_model_folder(world: World, gone: str) -> None:
    models = world.root / "models"
    base_model.check_model(world.file.train, models)
    (models / "tiny" / gone).unlink()
    name = gone.replace("model.", r"\*\.")
    with pytest.raises(ConfigError, match=rf"models/tiny: no {name} in the model folder: .*copy the model there"):
        base_model.check_model(world.file.train, models)


def test_a_model_that_the_pods_user_may_not_read(world: World) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to every other user
        models = Path(place) / "models"
        shutil.copytree(world.root / "models", models)
        Path(place).chmod(0o755)
        (models / "tiny" / "model.safetensors").chmod(0)
        child = os.fork()
        if child == 0:
            if os.getuid() == 0:
                os.setuid(65534)
            try:
                base_model.check_model(world.file.train, models)
            except ConfigError as error:
                os._exit(0 if f"model.safetensors: may not be read by uid {os.getuid()}: chmod it" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_model_folder(world: World) -> None:
    with pytest.raises(ConfigError, match=r"no such model folder: copy the model there"):
        base_model.check_model(world.file.train, world.root / "elsewhere")


def test_missing_data_files(world: World) -> None:
    preconditions.check_data(world.file.train, world.root / "data")
    with pytest.raises(DataError, match=r"train\.jsonl: no such file: copy it .*, or correct train\.data\.path"):
        preconditions.check_data(world.file.train, world.root)
    held_out = train_config(
        data={"path": "train.jsonl", "format": "prompt_completion", "validation": {"path": "held.jsonl"}}
    )
    with pytest.raises(DataError, match=r"held\.jsonl: .* correct train\.data\.validation\.path"):
        preconditions.check_data(held_out, world.root / "data")


def test_a_missing_adapter_to_start_from(tmp_path: Path) -> None:
    train = train_config(lora={"rank": 2, "init_adapter": "old/adapter"})
    with pytest.raises(ConfigError, match=r"old/adapter: no adapter there: correct train\.lora\.init_adapter"):
        preconditions.check_init_adapter(train, tmp_path, tmp_path)
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"\0" * 100)
    adapter = tmp_path / "old" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "MANIFEST.json").write_text(json.dumps({"base": base_digest(model)}))
    preconditions.check_init_adapter(train, tmp_path, tmp_path)
    (model / "model.safetensors").write_bytes(b"\1" * 100)
    with pytest.raises(ConfigError, match=r"old/adapter: was trained on another base model than train\.model"):
        preconditions.check_init_adapter(train, tmp_path, tmp_path)


def test_the_folder_of_another_run_is_refused(world: World) -> None:
    world.folder.root.mkdir()
    other = train_config(global_batch_size=3)
    world.folder.config.write_text(RunFile(run_name("demo", other), other).to_json())
    with pytest.raises(RunsFolderError, match=rf"belongs to run demo-\w+, not to {world.file.run}: move that folder"):
        preconditions.check_runs_folder(world.folder, world.file)
    for wrong in ("", "[]", '{"run": "x", "train": {}}'):
        world.folder.config.write_text(wrong)
        with pytest.raises(RunsFolderError, match="holds a run that this image cannot read"):
            preconditions.check_runs_folder(world.folder, world.file)


def test_other_ops_are_the_same_run(world: World) -> None:
    world.folder.root.mkdir()
    calmer = train_config(ops={"log_every": 99})
    world.folder.config.write_text(RunFile(world.file.run, calmer).to_json())
    preconditions.check_runs_folder(world.folder, world.file)
    assert [path.name for path in world.folder.root.iterdir()] == ["config.json"], "the probe is gone"


def test_no_runs_volume(world: World) -> None:
    with pytest.raises(RunsFolderError, match="no such folder: mount the runs volume there, or set TRAINER_RUNS"):
        preconditions.check_runs_folder(RunFolder(world.root / "no" / "run"), world.file)


@pytest.mark.parametrize(
    ("options", "words"), [("ro", "mount the volume read-write"), ("size=64k", "No space left on device: make room")]
)
def test_a_runs_volume_that_takes_no_mebibyte(world: World, options: str, words: str) -> None:
    program = f"""
import pathlib, sys
from trainer.errors import RunsFolderError
from trainer.pod.preconditions import check_runs_folder
from trainer.schema.contract import RunFolder
from trainer.schema.loading import read_run_file
root = pathlib.Path(sys.argv[1]) / "run"
try:
    check_runs_folder(RunFolder(root), read_run_file(pathlib.Path({str(world.root / "config.json")!r})))
except RunsFolderError as error:
    print(error, list(root.glob(".*")))
"""
    said = on_tmpfs(world.root / "runs", options, program)
    assert words in said and said.strip().endswith("[]")


def test_the_pods_environment() -> None:
    pod = read_pod({"PET_NODE_RANK": "1", "PET_NNODES": "2", "TRAINER_MAX_HOURS": "0.5", "TRAINER_POD_UID": "u"})
    assert (pod.uid, pod.node, pod.nodes, pod.max_seconds, pod.grace) == ("u", 1, 2, 1800.0, 300.0)
    alone = read_pod({})
    assert (alone.node, alone.nodes, alone.max_seconds, str(alone.models)) == (0, 1, None, "/models")
    assert alone.uid != read_pod({}).uid
    for name in ("PET_NODE_RANK", "PET_NNODES", "TRAINER_MAX_HOURS", "TRAINER_GRACE_SECONDS"):
        for text in ("x", "-1", "1e9", "nan", "1:2"):
            with pytest.raises(ConfigError, match=f"environment: {name} must be a plain number, got '{text}'"):
                read_pod({name: text})
    with pytest.raises(ConfigError, match="PET_NODE_RANK=2 with PET_NNODES=2"):
        read_pod({"PET_NODE_RANK": "2", "PET_NNODES": "2"})


def test_the_scratch_folder_is_private_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pod = read_pod({"TRAINER_POD_UID": "../../etc"})
    with scratch(pod) as folder:
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
        (folder / "left over").write_text("x")
    assert not list(tmp_path.iterdir())


def test_torchrun_takes_its_settings_from_the_platform() -> None:
    assert torchrun({"PET_MASTER_ADDR": "run-worker-0", "PET_NNODES": "2"})[-2:] == ["-m", "trainer.train"]
    assert "--master-addr" not in torchrun({"PET_MASTER_ADDR": "run-worker-0", "PET_NNODES": "2"})
    by_hand = torchrun({})
    assert by_hand[by_hand.index("--master-addr") + 1] == "127.0.0.1"
    assert 1024 <= int(by_hand[by_hand.index("--master-port") + 1]) < 65536
    with pytest.raises(ConfigError, match="PET_NNODES=2 needs PET_MASTER_ADDR"):
        torchrun({"PET_NNODES": "2"})


def test_what_misleads_torchrun_is_dropped() -> None:
    operator = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "PET_STANDALONE": "", "PET_NPROC_PER_NODE": "8"}
    seen = rank_environment(operator, {"TRAINER_PLAN": "0"})
    assert seen == {
        "PET_NPROC_PER_NODE": "8",
        "TRAINER_PLAN": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    assert rank_environment({"OMP_NUM_THREADS": "4"}, {})["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 2, "render it with kctl render"),
        ("{", 2, "no JSON"),
        ('{"run": "demo-00000000", "train": {}}', 2, "train.model: is missing"),
    ],
)
def test_the_launcher_says_it_in_one_line_without_a_traceback(
    world: World, content: str | None, code: int, words: str
) -> None:
    config = world.root / "config.json"
    config.unlink() if content is None else config.write_text(content)
    found, output = world.launch("pass")
    assert found == code and words in output and "Traceback" not in output
    assert len(output.splitlines()) == 1
    assert world.message()["phase"] == "Failed" and words in world.message()["sentence"]
    assert not list((world.root / "runs").iterdir()) and not list((world.root / "tmp").iterdir())
