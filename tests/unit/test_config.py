"""Run configs: finding, extending, overriding, and every refusal with file, field, value and remedy."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.config.resolve import merged, read_with_parents, shipped_configs
from kctl.config.run_config import load
from kctl.errors import KctlError, NotFound, UsageError
from trainer.errors import ConfigError

SHIPPED = sorted(path.stem for path in shipped_configs().glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a configs folder, and no $KCTL_CONFIGS."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCTL_CONFIGS", raising=False)
    (tmp_path / "configs").mkdir()
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_load_and_say_how_to_run_them(name: str) -> None:
    loaded = load(name, [])
    first, second = loaded.path.read_text().splitlines()[:2]
    assert first == f"# kctl submit {name}" + (" --local" if name == "demo" else "")
    assert second == "# yaml-language-server: $schema=run.schema.json"
    assert loaded.config.name == name.replace("_", "-")


def test_lora_di3_is_what_the_seed_recommends() -> None:
    train = load("lora_di3", []).config.train
    assert train.lora is not None and train.data.sample is not None
    assert (train.lora.rank, train.lora.alpha, train.lora.dropout, train.optim.lr) == (64, 128, 0.05, 2e-4)
    assert (train.global_batch_size, train.data.max_length, train.epochs) == (64, 1024, 50)
    assert (train.data.sample.max, train.data.sample.per, train.evaluation.patience) == (3, "row", 3)


@pytest.mark.parametrize("spelling", ["lora_di3", "lora-di3", "lora_di3.yaml", "LORA_DI3"])
def test_a_name_is_found_however_it_is_spelled(folder: Path, spelling: str) -> None:
    assert load(spelling, []).path == shipped_configs() / "lora_di3.yaml"


def test_the_nearest_place_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("named", "configs"):
        write(folder / name / "mine.yaml", "extends: demo\nname: mine\n")
    monkeypatch.setenv("KCTL_CONFIGS", str(folder / "named"))
    assert load("mine", []).path == Path("configs/mine.yaml")
    (folder / "configs/mine.yaml").unlink()
    assert load("mine", []).path == folder / "named/mine.yaml"
    shutil.copy(folder / "named/mine.yaml", folder / "here.yaml")
    assert load("here.yaml", []).path == Path("here.yaml")
    assert load("./here.yaml", []).config.name == "mine"


def test_what_is_not_there_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(NotFound, match=r"did you mean .*lora_di3"):
        load("lora_d3", [])
    with pytest.raises(NotFound, match="there are: demo, full_di3"):
        load("zzz", [])
    with pytest.raises(NotFound, match="no such file"):
        load("./demo.yaml", [])
    with pytest.raises(
        UsageError, match=r"di3.yaml with --set: cluster.profile: no cluster profile 'defalt'; did you mean default"
    ):
        load("lora_di3", ["cluster.profile=defalt"])


def test_extends_merges_maps_and_replaces_lists(folder: Path) -> None:
    write(folder / "configs/base.yaml", "extends: lora_di3\nname: base\ntrain: {lora: {rank: 32, targets: [q_proj]}}\n")
    write(folder / "configs/top.yaml", "extends: base\nname: top\ntrain: {lora: {alpha: 7, expert_rank: null}}\n")
    lora = load("top", []).config.train.lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets, lora.expert_rank) == (32, 7, 0.05, ("q_proj",), None)


def test_circles_and_wrong_parents_are_refused(folder: Path) -> None:
    write(folder / "configs/a.yaml", "extends: b\n")
    write(folder / "configs/b.yaml", "extends: ./c.yaml\n")
    write(folder / "configs/c.yaml", "extends: a\n")
    with pytest.raises(UsageError, match=r"a.yaml -> b.yaml -> c.yaml -> a.yaml"):
        load("a", [])
    for value, problem in (
        ("[a]", "must be the name"),
        ("nothing", "d.yaml: extends: no config 'nothing'"),
        ("''", "no name"),
    ):
        write(folder / "configs/d.yaml", f"extends: {value}\n")
        with pytest.raises(KctlError, match=problem):
            load("d", [])


@pytest.mark.parametrize("text", ["", "[1]", "text", "1", "null"])
def test_a_config_is_a_map(folder: Path, text: str) -> None:
    write(folder / "configs/x.yaml", text)
    with pytest.raises(UsageError, match=r"configs/x.yaml: must be a map"):
        load("x", [])


def test_profiles_beside_the_config_come_first_and_may_extend(folder: Path) -> None:
    write(folder / "deep/clusters/default.yaml", "extends: cpu\nimage: a/b:1\n")
    write(folder / "deep/x.yaml", "extends: demo\nname: x\ncluster: {profile: default}\n")
    profile = load("deep/x.yaml", []).profile
    assert (profile.image, profile.cpu, profile.gpu, profile.volumes.runs.claim) == ("a/b:1", "2", None, "runs")


def test_a_persons_own_profile_wins_over_the_shipped_one_for_a_shipped_config(folder: Path) -> None:
    assert load("lora_di3", []).profile.image.startswith("registry.example.com/")
    write(folder / "configs/clusters/default.yaml", "extends: cpu\nimage: a/b:1\ngpu: {model: H100}\n")
    assert load("lora_di3", []).profile.image == "a/b:1"


def test_merged_leaves_its_arguments_alone() -> None:
    below, above = {"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": None}
    assert merged(below, above) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert (below, above) == ({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": None})


SCHEMA_ERRORS = [
    ("train.lora.rank=0", "train.lora.rank: must be >= 1, got 0"),
    ("train.lora.rank=many", 'train.lora.rank: must be a whole number, got "many"'),
    ("train.lora=null", "add lora: {rank: 64}"),
    ("train.method=qlora", "QLoRA is not supported"),
    ("train.method=dora", "DoRA is not supported"),
    ("train.optim.lr=.nan", "train.optim.lr: must be a number"),
    ("train.global_batch_size=4", "train.global_batch_size: must be >= 8, the number of ranks (1 x 8), got 4"),
    ("train.lora.targets=[q_proj, gate_proj]", "name both or neither"),
    ("train.data.path=../x", "below the volume's root"),
    ("name=Lora_DI3", "must be a DNS label of at most 43 characters"),
    (f"name={'a' * 44}", "must be a DNS label of at most 43 characters"),
    ("name=-a", "must be a DNS label"),
    ("cluster.gpus_per_node=0", "add processes_per_node"),
    ("cluster.processes_per_node=2", "remove it"),
    ("cluster.nodes=0", "cluster.nodes: must be >= 1, got 0"),
    ("cluster.max_hours=0", "cluster.max_hours: must be > 0"),
    ("cluster.priority=High Prio", "must be the name of an object"),
    ("cluster.env={A: true}", "A must be text: write it in quotes"),
    ("cluster.env={A: {secret: s}}", "cluster.env.A.key: is missing"),
]


@pytest.mark.parametrize(("assignment", "problem"), SCHEMA_ERRORS)
def test_what_the_schema_refuses(assignment: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("lora_di3", [assignment])
    assert problem in str(caught.value)
    assert "lora_di3.yaml with --set: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gate_without_up_on_a_known_mixture_is_refused_without_an_expert_rank() -> None:
    with pytest.raises(ConfigError, match="one fused tensor in this mixture's experts"):
        load("lora_di3", ["train.lora.targets=[q_proj, gate_proj]", "train.lora.expert_rank=null"])
    load("demo", ["train.lora.targets=[q_proj, gate_proj]"])  # a dense model has no fused tensor
    unknown = ["train.model.path=other", "train.lora.expert_rank=null", "train.lora.targets=[gate_proj]"]
    load("lora_di3", unknown)  # the trainer knows the shape


def test_misspelt_keys_in_a_file(folder: Path) -> None:
    for text, problem in (
        ("train: {lora: {rnk: 3}}", "configs/x.yaml: train.lora: unknown key 'rnk', did you mean 'rank'?"),
        ("train: {lora: {r: 3}}", "did you mean 'rank'?"),
        ("train: {lora: {use_dora: true}}", "DoRA is not supported"),
        ("cluster: {gpu_per_node: 3}", "did you mean 'gpus_per_node'?"),
        ("nme: x", "unknown key 'nme', did you mean 'name'?"),
    ):
        write(folder / "configs/x.yaml", f"extends: lora_di3\n{text}\n")
        with pytest.raises(ConfigError) as caught:
            load("x", [])
        assert problem in str(caught.value)


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [path, *(leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key)))]


LORA_DI3 = read_with_parents(shipped_configs() / "lora_di3.yaml")
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(leaves(LORA_DI3)[1:]), ODD)
def test_any_value_anywhere_loads_or_is_one_line(path: tuple[str, ...], odd: object) -> None:
    text = yaml.safe_dump(odd, default_flow_style=True, width=10**6).strip().removesuffix("...").strip()
    try:
        load("lora_di3", [f"{'.'.join(path)}={text}"])
    except (KctlError, ConfigError) as error:
        assert "\n" not in str(error)
