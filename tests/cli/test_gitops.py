"""kctl gitops, as a person and a pipeline use it: a folder in Git, no cluster."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.cli import run
from kctl.manifest.folder import State, entries_of, write_run
from kctl.manifest.render import digest_of, render, to_yaml
from tests.cli.profiles import DIGEST, cases, config, profile
from trainer.schema.contract import ANNOTATION_MANIFEST

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"


class Repository:
    """A folder with configs/ and deploy/, and what kctl said of it last."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.deploy, self._capsys = root, root / "deploy", capsys
        (root / "configs" / "clusters").mkdir(parents=True)
        self.profile(cpu="8")
        self.config("one", rank=8)
        self.config("two", rank=16)

    def profile(self, **fields: str) -> None:
        values = {"extends": "default", "image": DIGEST, **fields}
        (self.root / "configs" / "clusters" / "here.yaml").write_text(yaml.safe_dump(values))

    def config(self, name: str, rank: int, **cluster: Any) -> None:
        value = {"extends": "lora_di3", "name": name, "train": {"lora": {"rank": rank}}}
        value["cluster"] = {"profile": "here", **cluster}
        (self.root / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(value))

    def kctl(self, *words: str) -> tuple[int, list[str], str]:
        """(exit code, lines on stdout, stderr)."""
        self._capsys.readouterr()
        code = run(["gitops", *words])
        said = self._capsys.readouterr()
        return code, said.out.splitlines(), said.err

    def render(self, *flags: str) -> tuple[int, list[str], str]:
        return self.kctl("render", "configs/", "-o", "deploy/", *flags)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.deploy.iterdir()}

    def runs(self) -> list[str]:
        return sorted(name.removesuffix(".yaml") for name in self.files() if name != "kustomization.yaml")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Repository:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    return Repository(tmp_path, capsys)


def test_each_run_is_written_once_and_listed(repository: Repository) -> None:
    code, out, err = repository.render()
    one, two = repository.runs()
    assert (code, out) == (0, [f"added deploy/{one}.yaml", f"added deploy/{two}.yaml"])
    assert "deploy: 2 runs, 2 of them new" in err
    before = repository.files()
    assert yaml.safe_load(before["kustomization.yaml"]) == {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{one}.yaml", f"{two}.yaml"],
    }
    assert repository.render()[:2] == (0, []) and repository.files() == before
    assert repository.render("--check") == (0, [], "")


def test_a_file_has_nothing_that_a_sync_would_repeat(repository: Repository) -> None:
    repository.render()
    for name in repository.runs():
        *others, job = yaml.safe_load_all(repository.files()[f"{name}.yaml"])
        assert [one["kind"] for one in others] == ["ConfigMap"] and others[0]["immutable"]
        assert job["metadata"]["name"] == name and "generateName" not in job["metadata"]
        assert set(job["spec"]["runPolicy"]) == {"cleanPodPolicy"}, "no suspend, no ttlSecondsAfterFinished"


def test_a_changed_config_is_another_run_and_the_one_before_is_kept(repository: Repository) -> None:
    repository.render()
    before = repository.files()
    repository.config("one", rank=32)
    code, out, _ = repository.render("--check")
    assert code == 1 and len(out) == 1 and out[0].startswith("new deploy/one-") and repository.files() == before
    assert repository.render()[0] == 0
    assert len(repository.runs()) == 3
    assert {name: repository.files()[name] for name in before if name != "kustomization.yaml"}.items() <= before.items()
    assert repository.render("--check")[0] == 0


def test_a_changed_profile_rewrites_nothing_until_a_run_is_named(repository: Repository) -> None:
    repository.render()
    before = repository.files()
    one, two = repository.runs()
    repository.profile(cpu="9")
    code, out, _ = repository.render("--check")
    why = "its config and profile say otherwise today: pod.containers[pytorch].resources.requests.cpu"
    assert (code, out) == (1, [f"older deploy/{run}.yaml: {why}" for run in (one, two)])
    assert repository.render("--check", "--allow-older")[:2] == (0, out)
    code, out, err = repository.render()
    assert (code, out) == (0, []) and f"left as it is, --update {one} rewrites it" in err
    assert repository.files() == before
    code, out, err = repository.render("--update", one[:5])
    assert (code, out) == (0, [f"updated deploy/{one}.yaml"])
    assert f"first: kctl cancel {one}" in err and "a run that is training: k8s/base refuses the change" in err
    assert "its ConfigMap has another name" not in err
    after = repository.files()
    assert after[f"{one}.yaml"] != before[f"{one}.yaml"] and after[f"{two}.yaml"] == before[f"{two}.yaml"]


def test_an_update_says_that_pruning_takes_what_a_training_run_needs(repository: Repository) -> None:
    repository.render()
    (one, _), path = repository.runs(), repository.root / "configs" / "one.yaml"
    value = yaml.safe_load(path.read_text())
    value["train"]["ops"] = {"log_every": 7}
    path.write_text(yaml.safe_dump(value))
    assert "train.ops.log_every" in repository.render("--check")[1][0]
    assert "its ConfigMap has another name" in repository.render("--update", one)[2]
    assert "another namespace" in repository.render("--update", one, "-n", "elsewhere")[2]


def test_what_a_person_changed_is_seen_and_left(repository: Repository) -> None:
    repository.render()
    one, _ = repository.runs()
    path = repository.deploy / f"{one}.yaml"
    for change in (b'cpu: "80"', b'cpu: "8" # { no yaml', b"\xff"):
        repository.render("--update", one)
        path.write_bytes(path.read_bytes().replace(b'cpu: "8"', change) + (b"\n}" if b"{" in change else b""))
        edited = path.read_bytes()
        code, out, _ = repository.render("--check", "--allow-older")
        assert (code, out) == (1, [f"edited deploy/{one}.yaml: is not what kctl wrote: somebody changed it"])
        assert "left as it is" in repository.render()[2] and path.read_bytes() == edited
    (repository.root / "configs" / "one.yaml").rename(repository.root / "one.yaml")
    assert "left as it is, take it from Git again" in repository.render()[2]
    (repository.root / "one.yaml").rename(repository.root / "configs" / "one.yaml")
    assert repository.render("--update", one)[1] == [f"updated {Path('deploy') / path.name}"]
    path.write_bytes(b"# a comment is no change\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert repository.render("--check")[0] == 0


def test_what_a_file_calls_its_fields_moves_no_cursor(repository: Repository) -> None:
    repository.render()
    path = repository.deploy / f"{repository.runs()[0]}.yaml"
    manifests = list(yaml.safe_load_all(path.read_text()))
    manifests[-1]["metadata"]["labels"]["\x1b[2J"] = "x"
    manifests[-1]["metadata"]["annotations"][ANNOTATION_MANIFEST] = digest_of(manifests)
    path.write_text(to_yaml(manifests))
    assert "labels.\\x1b[2J" in repository.render("--check")[1][0]


def test_a_run_is_removed_by_name(repository: Repository) -> None:
    repository.render()
    one, two = repository.runs()
    code, out, err = repository.kctl("rm", "one", "-o", "deploy")
    assert (code, out) == (0, [f"removed deploy/{one}.yaml"])
    assert "with prune its job is deleted, also one that is training" in err and "kctl gitops render brings it" in err
    assert repository.runs() == [two]
    assert yaml.safe_load(repository.files()["kustomization.yaml"])["resources"] == [f"{two}.yaml"]
    assert repository.kctl("rm", "one", "-o", "deploy")[0] == 4
    assert repository.render()[1] == [f"added deploy/{one}.yaml"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["render", "configs/", "-o", "deploy", "--update", "three"],
            4,
            "no run 'three' among these configs; there are",
        ),
        (["render", "configs/", "-o", "deploy", "--check", "--update", "one"], 2, "choose one"),
        (["render", "configs/", "-o", "deploy", "--allow-older"], 2, "--allow-older belongs to --check"),
        (["render", "configs/clusters/..", "absent", "-o", "deploy"], 4, "no config 'absent'"),
        (["render", "deploy", "-o", "deploy"], 4, "deploy: no config in this folder"),
        (["render", "configs", "-o", "configs/one.yaml"], 1, "configs/one.yaml: Not a directory"),
        (["rm", "one", "-o", "deploy"], 4, "no run 'one' in deploy; there are: none"),
        (["health", "flux", "--until-the-end"], 2, "--until-the-end is Argo CD's"),
    ],
)
def test_wrong_words(repository: Repository, words: list[str], code: int, said: str) -> None:
    repository.deploy.mkdir()
    found = repository.kctl(*words)
    assert found[0] == code and said in found[2] and not list(repository.deploy.iterdir())


def test_one_run_of_two_configs_has_one_file(repository: Repository) -> None:
    text = (repository.root / "configs" / "one.yaml").read_text()
    (repository.root / "configs" / "same.yaml").write_text(text)
    assert len(repository.render()[1]) == 2
    repository.config("same", rank=8, max_hours=2)
    path = repository.root / "configs" / "same.yaml"
    path.write_text(path.read_text().replace("name: same", "name: one"))
    code, _, err = repository.render()
    assert code == 2 and "configs/one.yaml and configs/same.yaml: both are run one-" in err


def test_the_list_follows_from_the_files(repository: Repository) -> None:
    repository.render()
    path, whole = repository.deploy / "kustomization.yaml", repository.files()["kustomization.yaml"]
    for text in (None, b"resources: []\n"):  # a render that was cut, a merge that lost lines
        path.unlink()
        if text is not None:
            path.write_bytes(text)
        code, out, _ = repository.render("--check")
        assert (code, out) == (1, ["stale deploy/kustomization.yaml: does not list the files beside it"])
        assert repository.render()[0] == 0 and path.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("namespace: team\nresources: []\n", "namespace: not kctl's. Put that into a kustomization of your own"),
        ("resources: [../secret.yaml]\n", "../secret.yaml: not kctl's"),
        ("resources: 7\n", "7: not kctl's"),
        ("<<<<<<< HEAD\nresources: []\n", "render again: it follows from the files beside it"),
        ("- one\n", "its content: not kctl's"),
    ],
)
def test_a_list_of_somebody_else_is_refused(repository: Repository, text: str, said: str) -> None:
    repository.deploy.mkdir()
    path = repository.deploy / "kustomization.yaml"
    path.write_text(text)
    for words in (["--check"], []):
        code, _, err = repository.render(*words)
        assert code == 2 and said in err and list(repository.deploy.iterdir()) == [path]


def test_another_process_writes_the_same_bytes_and_needs_no_cluster(repository: Repository, tmp_path: Path) -> None:
    repository.render()
    code = "import sys; from kctl.cli import run; assert run(sys.argv[1:]) == 0; print(*sys.modules, file=sys.stderr)"
    words = ["gitops", "render", "two", "configs/one.yaml", "-o", "again"]
    env = {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo", "HOME": str(tmp_path), "PATH": "/bin"}
    env["PYTHONPATH"] = os.environ.get("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == repository.files()
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "kctl" in loaded and not loaded & {"kubernetes", "urllib3", "torch", "rich"}


@pytest.mark.parametrize("name", cases())
def test_what_is_written_is_known_again(name: str, tmp_path: Path) -> None:
    case = cases()[name]
    rendered = render(case.config, case.profile, case.namespace)
    write_run(tmp_path, rendered)
    (entry,) = entries_of(tmp_path, {rendered.run: rendered})
    assert entry.state is State.SAME
    (entry,) = entries_of(tmp_path, {})
    assert entry.state is State.KEPT


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_whatever_text_is_in_it(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("deploy")
    rendered = render(config(), profile(pod_patch={"hostAliases": [{"ip": "::1", "hostnames": [text]}]}), None)
    write_run(folder, rendered)
    (entry,) = entries_of(folder, {rendered.run: rendered})
    assert entry.state is State.SAME


def test_health_prints_what_k8s_has(repository: Repository) -> None:
    code, out, _ = repository.kctl("health")
    config_map, flux = yaml.safe_load_all("\n".join(out))
    assert code == 0
    (generator,) = yaml.safe_load((K8S / "argocd" / "kustomization.yaml").read_text())["configMapGenerator"]
    files = dict(one.split("=") for one in generator["files"])
    assert config_map["metadata"]["name"] == generator["name"]
    assert config_map["metadata"]["labels"] == generator["options"]["labels"]
    assert config_map["data"] == {key: (K8S / "argocd" / name).read_text() for key, name in files.items()}
    assert flux == list(yaml.safe_load_all((K8S / "flux" / "runs.yaml").read_text()))[-1]
    (only,) = yaml.safe_load_all("\n".join(repository.kctl("health", "argocd", "--until-the-end")[1]))
    health = only["data"]["resource.customizations.health.kubeflow.org_PyTorchJob"]
    assert health == (K8S / "argocd" / "health-until-the-end.lua").read_text()
    assert yaml.safe_load("\n".join(repository.kctl("health", "flux")[1])) == flux


def test_the_examples_for_pipelines_do_what_they_say(repository: Repository) -> None:
    hooks = yaml.safe_load((K8S / "ci" / "pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    job = yaml.safe_load((K8S / "ci" / "github-actions.yaml").read_text())["jobs"]["check"]
    steps = [step["run"].removeprefix("$KCTL ") for step in job["steps"] if "run" in step]
    entries = [hook["entry"].removeprefix("kctl ") for hook in hooks]
    assert steps[0].removesuffix(" configs/*.yaml") == entries[0] == "validate" and steps[1] == entries[1]
    assert run(["validate", *map(str, sorted(Path("configs").glob("*.yaml")))]) == 0
    words = steps[1].removeprefix("gitops ").split()
    assert repository.kctl(*words)[0] == 1
    assert repository.kctl(*[word for word in words if word.startswith(("render", "configs", "-o", "runs"))])[0] == 0
    repository.profile(cpu="9")
    assert repository.kctl(*words)[0] == 0
