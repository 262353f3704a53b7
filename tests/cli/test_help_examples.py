"""Every example of --help that needs no GPU and no cluster is executed as it stands, on this machine.

Those of a run get --local; `submit` is tried and not started; a pod does the work of merge, generate and export, which
tests/training and tests/cluster see.
"""

import shutil
from pathlib import Path

import pytest

from kctl.backends.local.backend import Local
from kctl.cli import run as kctl
from kctl.config.resolve import shipped_configs
from kctl.config.run_config import load
from kctl.manifest.render import render
from tests.bench_dataset import write_chameleons
from tests.cli.local_jobs import manifests, until
from tests.cli.ready_cluster import ready, written
from tests.cli.test_adapters import publish, train
from tests.cli.test_help import EXAMPLES, its_words
from tests.unit.dataset_world import write_lines, write_model
from trainer.schema.contract import REPORT_HEAD, RunFolder

RUNS = ("full_di3", "lora_di3", "lora_di5")
"""Configs of the runs that the examples name; the last one is @latest, by its name too where all are of one second."""
WITH_A_POD = ("merge", "generate", "export")
OF_A_RUN = ("submit", "status", "top", "list", "explain", "diff", "logs", "wait", "cancel", "pull", "report", "compare")
OF_A_RUN += ("adapters", "delete", "prune")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs that are done, their adapters and reports, and files of data; to be copied."""
    root = tmp_path_factory.mktemp("world")
    local = Local(root / ".kctl")
    for name in RUNS:
        loaded = load(name, [])
        run = loaded.config.run
        objects = manifests(run, "print('step=40/40 loss=2.0 lr=1.0e-04', flush=True)")
        objects[1]["spec"]["nprocPerNode"] = "8"
        local.create(objects)
        until(local, run, lambda view: view.settled)
        folder = RunFolder(root / ".kctl" / "runs" / "team" / run)
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.config.write_text(render(loaded.config, loaded.profile, None).manifests[0]["data"]["config.json"])
        folder.page.write_bytes(REPORT_HEAD.encode() + b"<p>done</p>")
        publish(folder, b"w" * 100)
        train(folder, 2.5)
    write_chameleons(root / "train.json", 60)
    write_chameleons(root / "test.json", 20)
    write_model(root / "Qwen3-8B")
    chat = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]}
    write_lines(root / "chats.jsonl", [chat])
    write_lines(root / "pairs.jsonl", [{"prompt": "Who?", "completion": "I."}])
    (root / "configs").mkdir()
    return root


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "here"
    shutil.copytree(world, copy, symlinks=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("KCTL_LOCAL", raising=False)
    return copy


def _of(*verbs: str) -> list[str]:
    return [line for line in EXAMPLES if its_words(line)[0] in verbs and its_words(line)[1:2] != ["health"]]


@pytest.mark.parametrize("line", _of(*OF_A_RUN))
def test_of_a_run(here: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    words = its_words(line)
    if "-n" in words:
        del words[words.index("-n") :][:2]
    for tag in ("production", "candidate"):
        assert kctl(["adapters", "tag", "lora_di3", tag, "--local"]) == 0
    more = {"submit": ["--dry-run", "client"], "delete": ["--yes"], "prune": ["--yes"]}.get(words[0], [])
    code, seen = kctl([*words, *dict.fromkeys(["--local", *more])]), capsys.readouterr()
    assert code == 0 or (code, words[0]) == (1, "diff"), seen.err
    assert (seen.out + seen.err).strip() and "Traceback" not in seen.err


@pytest.mark.parametrize("line", _of("data"))
def test_of_data(here: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    words = its_words(line)
    if words[1] in ("sample", "convert"):
        (here / words[3]).unlink(missing_ok=True)  # OUT must be new
    assert kctl(words) == 0, capsys.readouterr().err
    seen = capsys.readouterr()
    assert (seen.out + seen.err).strip()


@pytest.mark.parametrize("line", _of("push"))
def test_of_push(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> None:
    monkeypatch.setenv("HOME", str(here))
    words = [str(Path(word).expanduser()) if word.startswith("~") else word for word in its_words(line)]
    source = here / words[1]
    source.parent.mkdir(exist_ok=True)
    (here / ("train.json" if source.suffix else "Qwen3-8B")).rename(source)
    code, seen = kctl([*words, "--local"]), capsys.readouterr()
    assert code == 0 and (here / ".kctl" / seen.out.strip()).exists(), seen.err


@pytest.mark.parametrize("line", _of("gitops"))
def test_of_gitops(here: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    shutil.copy(shipped_configs() / "lora_di3.yaml", here / "configs")
    words = its_words(line)
    if words[1] == "rm" or "--check" in words:
        assert kctl(["gitops", "render", "lora_di3", "-o", "runs/"]) == 0
    assert kctl(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("line", _of("doctor"))
def test_of_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    with ready(tmp_path, monkeypatch) as server:
        written(server, tmp_path)
        server.answers |= {path.replace("/team", "/research"): answer for path, answer in server.answers.items()}
        assert kctl(its_words(line)) == 0


def test_none_is_forgotten() -> None:
    elsewhere = ("validate", "plan", "render", "schema", "completion", "init")  # test_help
    verbs = {its_words(line)[0] for line in EXAMPLES}
    assert verbs == {*OF_A_RUN, *WITH_A_POD, *elsewhere, "data", "gitops", "doctor", "push"}
