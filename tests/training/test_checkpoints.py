"""Checkpoints: whole or absent, this run's or refused, the one before where one is damaged; written beside training."""

import json
import random
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.damage import DAMAGES, of_another_run, same_as_written, sign, under_another_name
from tests.training.one_rank import OWNER, SAVED, Bench, fingerprint, make_bench, steps
from trainer import checkpoints, state
from trainer.checkpoints import MANIFEST, Files, Progress
from trainer.errors import CheckpointDamaged, CheckpointError, OwnershipLost, RunsFolderError
from trainer.schema.contract import RunFolder
from trainer.state import due, resume, save, settle


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with make_bench(tmp_path_factory.mktemp("checkpoints")) as bench:
        yield bench


def test_each_checkpoint_brings_back_the_state_after_its_step(bench: Bench) -> None:
    for step in SAVED:
        bench.restore()
        for later in (one for one in SAVED if one > step):
            shutil.rmtree(bench.path(later))
        assert resume(bench.run) == Progress(step=step, best_step=3)
        assert fingerprint(bench.run) == bench.states[step]
    assert len(set(bench.states.values())) == len(SAVED)


def test_the_manifest_says_what_it_is(bench: Bench) -> None:
    value = json.loads((bench.root / "whole" / "step-000006" / MANIFEST).read_text())
    assert value["schema"] == 1 and value["step"] == 6 and value["world"] == 1
    assert value["run"] == bench.run.file.run and len(value["config"]) == len(value["base"]) == len(value["data"]) == 64
    per_epoch = -(-len(bench.run.data.train) // 2)
    assert value["position"] == {"seed": 1, "epoch": 6 // per_epoch, "step_of_epoch": 6 % per_epoch}
    assert value["progress"] == asdict(Progress(step=6, best_step=3))
    assert list(value["files"]) == ["rank-0000.safetensors"]
    names = sorted(path.name for path in (bench.root / "whole" / "step-000006").iterdir())
    assert names == [MANIFEST, "rank-0000.safetensors"]


# --------------------------------------------------------------------------------------------------------------
# damage


def test_of_200_damaged_checkpoints_none_is_loaded(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest is damaged in one way or another: what is said names it, and the state is that of the one before."""
    seed = 20261126
    rng, refusals = random.Random(seed), 0
    for number in range(200):
        bench.restore()
        damage = DAMAGES[number % len(DAMAGES)]
        damage(bench, rng)
        while same_as_written(bench):  # a byte that became what it was, or a space another one
            damage(bench, rng)
        capsys.readouterr()
        what = f"seed {seed}, case {number}: {damage.__name__}"
        try:
            step = resume(bench.run).step
        except CheckpointError as error:
            assert damage is of_another_run and f"is of run {bench.other.file.run}" in str(error), what
            refusals += 1
            continue
        said = capsys.readouterr().out.splitlines()
        older = 2 if damage is under_another_name else 4
        assert step == older and fingerprint(bench.run) == bench.states[older], what
        skipped, resumed = said
        assert skipped.startswith(f"damaged checkpoint skipped: {bench.run.folder.checkpoints}/step-"), what
        assert resumed == f"resumed from step-{older:06d}", what
        assert len(list(bench.run.folder.checkpoints.glob("damaged-step-*"))) == 1, what
    assert 0 < refusals < 22, "manifests of the other run's checkpoint of the same step"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("schema", "sha256", "files")), inner),
    max_leaves=6,
)


@given(content=st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_stands_in_a_manifest_it_is_damaged(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "step-000001"
        path.mkdir()
        (path / MANIFEST).write_bytes(content)
        with pytest.raises(CheckpointDamaged, match=MANIFEST):
            checkpoints.read(path, checkpoints.Origin("run", "config", "base", "data"))


def test_a_file_of_another_step_is_noticed_even_where_the_manifest_lists_it(bench: Bench) -> None:
    name = "rank-0000.safetensors"
    for source in (bench.root / "whole" / "step-000004", bench.other.folder.checkpoint(6)):
        bench.restore()
        shutil.copyfile(source / name, bench.path(6) / name)
        sign(bench.path(6), files={name: checkpoints.signature(bench.path(6) / name)})
        with pytest.raises(CheckpointError, match=r"rank-0000\.safetensors: cannot be read \(is of step [46] of tiny-"):
            resume(bench.run)


def test_where_none_is_whole_nothing_starts_from_zero(bench: Bench) -> None:
    bench.restore()
    rng = random.Random(5)
    for step in SAVED:
        (bench.path(step) / MANIFEST).write_bytes(rng.randbytes(500))
    for _ in range(2):  # nor at the second try
        with pytest.raises(
            CheckpointError, match=r"none of 3 checkpoints can be used; .*step-000006.* raise train.rev"
        ):
            resume(bench.run)
    assert not list(bench.run.folder.checkpoints.glob("damaged-*"))


def test_a_damaged_one_is_set_aside_and_goes_when_another_is_written(bench: Bench) -> None:
    bench.restore()
    (bench.path(6) / MANIFEST).unlink()
    progress = resume(bench.run)
    aside = bench.run.folder.checkpoints / "damaged-step-000006"
    assert progress.step == 4 and aside.is_dir()
    save(bench.run, steps(bench.run, progress, 1), wait=True)
    assert not aside.exists() and bench.path(5).is_dir()


# --------------------------------------------------------------------------------------------------------------
# what is whole, and of something else


def test_other_data_is_refused(bench: Bench) -> None:
    refused(bench, r"trained on other data than train\.data\.path holds now: .* raise train\.revision", data="0" * 64)


def test_another_base_model_is_refused(bench: Bench) -> None:
    bench.restore()
    run = replace(bench.run, base=bench.root / "other")
    with pytest.raises(CheckpointError, match=r"another base model than train\.model names now: .* train\.revision"):
        resume(run)


def test_another_runs_checkpoint_is_refused(bench: Bench) -> None:
    bench.restore()
    shutil.rmtree(bench.path(6))
    shutil.copytree(bench.other.folder.checkpoint(6), bench.path(6))
    with pytest.raises(
        CheckpointError, match=rf"is of run {bench.other.file.run}, not of {bench.run.file.run}: remove"
    ):
        resume(bench.run)


def test_another_schema_is_refused(bench: Bench) -> None:
    refused(bench, r"whose schema is 2, not 1: continue with the image that wrote it, or raise train\.rev", schema=2)
    refused(bench, r"another version of this trainer \(.*'hats'", progress={"step": 6, "hats": 3})
    bench.restore()
    (bench.path(6) / MANIFEST).write_text(json.dumps({"progress": {"step": 6}, "data": "x", "files": {}}))
    with pytest.raises(CheckpointError, match="had no schema yet: continue with the image that wrote it"):
        resume(bench.run)


def refused(bench: Bench, words: str, **changes: Any) -> None:
    bench.restore()
    sign(bench.path(6), **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        resume(bench.run)
    assert caught.value.code == 6 and bench.path(6).is_dir()


# --------------------------------------------------------------------------------------------------------------
# writing beside training


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel lets no file of this process grow beyond that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_training_goes_on_where_the_volume_takes_no_checkpoint(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.restore()
    run, progress = bench.run, resume(bench.run)
    capsys.readouterr()
    with files_of_at_most(4096):
        save(run, progress)
        progress = steps(run, progress, 1)
        settle(run)
        (said,) = capsys.readouterr().out.splitlines()
        with pytest.raises(RunsFolderError, match=r"File too large.*submit again"):
            save(run, progress, wait=True)
    assert said.startswith(f"no checkpoint: {run.folder.checkpoints}/.step-000006.") and "File too large" in said
    assert said.endswith("training goes on, the next try is in 1000 steps")
    assert sorted(path.name for path in run.folder.checkpoints.iterdir()) == [f"step-00000{step}" for step in SAVED]
    save(run, progress)
    settle(run)
    assert resume(run).step == 7


def test_a_pod_that_lost_the_run_publishes_nothing_and_stops(bench: Bench) -> None:
    bench.restore()
    run, progress = bench.run, resume(bench.run)
    temp = state._place(run, 7)
    run.folder.owner.write_text(json.dumps(asdict(replace(OWNER, pod_uid="another"))))
    try:
        run.writer.begin(temp, {}, lambda files: state._publish(run, replace(progress, step=7), temp, files))
        with pytest.raises(OwnershipLost, match="another pod owns this run now"):  # at a step's end
            steps(run, progress, 100)
        with pytest.raises(OwnershipLost):
            save(run, progress)
    finally:
        run.folder.owner.write_text(json.dumps(asdict(OWNER)))
    assert sorted(path.name for path in run.folder.checkpoints.iterdir()) == [f"step-00000{step}" for step in SAVED]


def test_the_copy_is_of_the_step_it_was_asked_at(bench: Bench) -> None:
    """Whatever training does to the masters while the file is written."""
    bench.restore()
    run, progress = bench.run, resume(bench.run)
    for count in (1, 2):  # the second copy goes into the same memory
        progress = steps(run, progress, count)
        before = fingerprint(run)
        save(run, progress)
        progress = steps(run, progress, 3)
        settle(run)
        assert resume(run).step == progress.step - 3 and fingerprint(run) == before
        progress = replace(progress, step=progress.step - 3)


def test_a_stop_waits_for_the_checkpoint_that_is_being_written(bench: Bench) -> None:
    bench.restore()
    run, progress = bench.run, resume(bench.run)
    temp, go_on = state._place(run, 6), threading.Event()

    def late(files: Files) -> None:
        go_on.wait(20)
        state._publish(run, progress, temp, files)

    run.writer.begin(temp, state._about(run, progress), late)
    later = steps(run, progress, 1)
    assert run.writer.busy and not due(run, 1000), "one at a time"
    threading.Timer(0.2, go_on.set).start()
    save(run, later, wait=True)
    assert [checkpoints.step_of(path) for path in checkpoints.by_step(run.folder)] == [2, 4, 6, 7]
    assert not due(run, 1001) and due(run, 2000)


def test_the_newest_and_the_best_are_kept(bench: Bench) -> None:
    bench.restore()
    run, progress = bench.run, replace(resume(bench.run), best_step=3)
    for _ in range(4):
        progress = steps(run, progress, 1)
        save(run, progress)
    settle(run)
    kept = [checkpoints.step_of(path) for path in checkpoints.by_step(run.folder)]
    assert kept == [2, 8, 9, 10], "2 is what the best adapter, of step 3, came from"


def test_the_first_of_every_so_many_steps_is_kept(bench: Bench) -> None:
    folder = RunFolder(bench.root / "kept")
    for step in range(4, 60, 4):
        folder.checkpoint(step).mkdir(parents=True)
        checkpoints.prune(folder, keep=2, best_step=27, keep_every=15)
    assert [checkpoints.step_of(path) for path in checkpoints.by_step(folder)] == [16, 24, 32, 48, 52, 56]


def test_no_room_is_said_before_anything_is_written(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.restore()
    resume(bench.run)
    capsys.readouterr()
    run = replace(bench.run, details={"trained": 10**15})
    assert not due(run, 1000)
    said = capsys.readouterr().out
    assert said.startswith("no checkpoint of step 1000: it needs 1.2e+07 GB and ") and "make room there" in said
    assert not due(run, 1001), "asked once an interval"
