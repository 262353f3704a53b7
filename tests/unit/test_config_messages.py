"""What a person reads who wrote the wrong thing: the file it stands in, the field, what to write; never a secret."""

from pathlib import Path

import pytest

from kctl.cli import run
from kctl.config.profile import ClusterProfile
from kctl.config.resolve import configs_in
from kctl.config.run_config import load, load_profile
from kctl.errors import KctlError, NotFound, UsageError
from trainer.errors import ConfigError
from trainer.schema.loading import validated

TOKEN = "hf_" + "aB3" * 11
VOLUMES = "volumes: {models: {claim: m}, data: {claim: d}, runs: {claim: r}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no $KCTL_CONFIGS."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCTL_CONFIGS", raising=False)
    return tmp_path


def problem(text: str, sets: list[str] | None = None) -> str:
    """What is said of x.yaml with `text`."""
    Path("x.yaml").write_text(text)
    with pytest.raises((KctlError, ConfigError)) as caught:
        load("x.yaml", sets or [])
    return str(caught.value)


def profile(text: str) -> ClusterProfile:
    Path("clusters").mkdir(exist_ok=True)
    Path("clusters/mine.yaml").write_text(text)
    return load_profile("mine", Path("x.yaml"))


ENVS = [
    (f"[HF_TOKEN={TOKEN}]", "env: must be a map"),
    (TOKEN, "env: must be a map"),
    (f"{{HF_TOKEN: [{TOKEN}]}}", "env.HF_TOKEN: must be text, or {secret: NAME, key: KEY}"),
    (f"{{HF_TOKEN: {{secret: {TOKEN}}}}}", "env.HF_TOKEN.secret: must be the name of an object"),
    (f"{{HF_TOKEN: {{secret: s, key: [{TOKEN}]}}}}", "env.HF_TOKEN.key: must be text"),
    (f"{{HF_TOKEN: {{secret: s, {TOKEN}: k}}}}", "env.HF_TOKEN: has an unknown key, known keys: secret, key"),
    (f"{{HF_TOKEN={TOKEN}: }}", "env: what begins with 'HF_TOKEN' is no name"),
    (f"{{{TOKEN}: x}}", "env: one of its keys is no name"),
    ("{HF_TOKEN: {secret: s}}", "env.HF_TOKEN.key: is missing"),
]


@pytest.mark.parametrize(("env", "said"), ENVS)
def test_nothing_below_env_is_repeated(folder: Path, env: str, said: str) -> None:
    found = [
        problem(f"extends: demo\nname: x\ncluster: {{env: {env}}}"),
        problem("extends: demo\nname: x\n", [f"cluster.env={env}"]),
    ]
    with pytest.raises(ConfigError) as caught:
        profile(f"image: a\n{VOLUMES}\nenv: {env}\n")
    for message in (*found, str(caught.value)):
        assert said in message
        assert TOKEN not in message


REMEDIES = [
    ("train: {lora: {targets: all-linear}}", "train.lora.targets: must be a list: write [all-linear]"),
    ("train: {data: {prompt: {blocks: context}}}", "train.data.prompt.blocks: must be a list: write [context]"),
    ("train: {model: Qwen3}", "train.model: must be a section of fields: write {path: Qwen3}"),
    ("train: {lora: 32}", "train.lora: must be a section of fields: write {rank: 32}"),
    ("train: {ops: {wandb: true}}", "train.ops.wandb: must be a section of fields: project, mode"),
    ("train: {lora: {rank: thirty}}", 'train.lora.rank: must be a whole number, got "thirty"'),
    ("train: {lora: {rslora: maybe}}", 'train.lora.rslora: must be true or false, got "maybe"'),
    ("train: {method: none}", "train.method: must be 'lora' or 'full', got \"none\""),
    ("train: {ops: {offload: true}}", "train: ops.offload is for method full: adapters have little that could lie in"),
    (f"train: [{TOKEN}]", "train: must be a section of fields: model, data"),
    ("name: 123", "name: must be text: put it in quotes, got 123"),
    ("extend: lora_di3", "unknown key 'extend', did you mean 'extends'?"),
    ("zzzz: 1", "known keys: extends, name, train, cluster"),
    ("train: {lr: 1}", "train: unknown key 'lr', did you mean train.optim.lr?"),
    ("train: {learning_rate: 1}", "train: unknown key 'learning_rate', did you mean train.optim.lr?"),
    ("train: {model: {load_in_4bit: true}}", "QLoRA is not supported"),
    ("use_qlora: true", "QLoRA is not supported"),
    ("train: {quantization_config: {}}", "QLoRA is not supported"),
    ("cluster: {use_dora: true}", "DoRA is not supported"),
]


@pytest.mark.parametrize(("text", "said"), REMEDIES)
def test_a_wrong_value_is_answered_with_the_right_one(folder: Path, text: str, said: str) -> None:
    name = "" if text.startswith("name") else "name: x\n"
    message = problem(f"extends: demo\n{name}{text}\n")
    assert message.startswith("x.yaml: ")
    assert said in message
    assert TOKEN not in message


INHERITED = [
    ("data: {path: my.jsonl, format: messages}", "data: {prompt: null}", "prompt: null"),
    ("model: {hub: {id: a/b, revision: c}}", "model: {path: null}", "path: null"),
    ("optim: {warmup_steps: null, warmup_ratio: 0.1}", "", ""),
    ("optim: {warmup_ratio: 0.1}", "optim: {warmup_steps: null}", "NAME: null"),
    ("method: full", "lora: null", "lora: null"),
]


@pytest.mark.parametrize(("text", "remedy", "said"), INHERITED)
def test_null_takes_out_what_is_inherited(folder: Path, text: str, remedy: str, said: str) -> None:
    base = f"extends: lora_di3\nname: x\ntrain:\n  {text}\n"
    if said:
        assert f"{said} if it is inherited)" in problem(base) or f"{said} or hub: null if" in problem(base)
    Path("base.yaml").write_text(base)
    Path("x.yaml").write_text(f"extends: base\ntrain:\n  {remedy}\n" if remedy else base)
    load("x.yaml", [])


def test_null_takes_out_processes_per_node(folder: Path) -> None:
    text = "extends: demo\nname: x\ncluster: {gpus_per_node: 1, profile: default%s}\n"
    assert "(or write processes_per_node: null if it is inherited)" in problem(text % "")
    Path("x.yaml").write_text(text % ", processes_per_node: null")
    load("x.yaml", [])


PARENTS = [
    ("", "child.yaml (extends parent.yaml): train.lora.rank: must be >= 1, got 0"),
    ("train: {lora: {alpha: 3}}", "child.yaml (extends parent.yaml): train.lora.rank: "),
    ("train: {lora: {rank: -1}}", "child.yaml: train.lora.rank: must be >= 1, got -1"),
    ("train: {lora: {rank: 1}, optim: {lr: x}}", "child.yaml: train.optim.lr: "),
    ("train: {lora: {rank: 1}, global_batch_size: 4}", "child.yaml: train.global_batch_size: must be >= 8"),
]


@pytest.mark.parametrize(("text", "said"), PARENTS)
def test_an_error_is_told_of_the_file_that_wrote_it(folder: Path, text: str, said: str) -> None:
    Path("parent.yaml").write_text("extends: lora_di3\ntrain: {lora: {rank: 0}}\n")
    Path("child.yaml").write_text(f"extends: parent\nname: x\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load("child.yaml", [])
    assert str(caught.value).startswith(said)
    with pytest.raises(ConfigError, match=r"^child.yaml with --set: train.lora.rank: "):
        load("child.yaml", ["train.lora.rank=-2"])


def test_an_unknown_key_of_a_parent_is_told_of_the_parent(folder: Path) -> None:
    Path("parent.yaml").write_text("extends: lora_di3\ntrain: {lora: {rnk: 0}}\n")
    message = problem("extends: parent\nname: x\ntrain: {lora: {rank: 3}}\n")
    assert message.startswith("x.yaml (extends parent.yaml): train.lora: unknown key 'rnk'")


def test_what_a_config_names_and_is_not_there_is_an_error_of_the_config(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        Path(f"q{number}.yaml").write_text("name: q\n")
    for text, said in (
        ("extends: demo\nname: x\ncluster: {profile: nowhere}\n", "cluster.profile: no cluster profile 'nowhere'; "),
        ("extends: zzzzzz\nname: x\n", "extends: no config 'zzzzzz'; there are: "),
    ):
        Path("x.yaml").write_text(text)
        assert run(["validate", "x.yaml"]) == 2
        found = capsys.readouterr().err
        assert f"x.yaml: {said}" in found
        assert found.count(", ") <= 10


def test_what_is_no_file_is_called_what_it_is(folder: Path) -> None:
    Path("some").mkdir()
    for argument in ("some", "./some"):
        with pytest.raises(UsageError, match="some: is a directory"):
            load(argument, [])
    with pytest.raises(UsageError, match="/dev/null: is no regular file"):
        load("/dev/null", [])
    with pytest.raises(NotFound):
        load("./absent", [])


PROFILES = [
    ("", "a profile needs image and volumes"),
    (f'image: ""\n{VOLUMES}', "image: must be the name of an image, e.g. REGISTRY/NAME@sha256:..., got"),
    (f"image: a\n{VOLUMES}\nqueue: kueue", "queue: must be a section of fields: write {kind: kueue}"),
    (f"image: a\n{VOLUMES}\ngpu: 8", "gpu: must be a section of fields: resource, model, memory_gib"),
    (f"image: a\n{VOLUMES}\npull_secrets: regcred", "pull_secrets: must be a list: write [regcred]"),
    (f"image: a\n{VOLUMES}\nnode_selector: {{env: 1}}", "node_selector.env: must be text: put it in quotes, got 1"),
    (f"image: a\n{VOLUMES}\nrdma: {{rdma/ib: -1}}", "rdma.rdma/ib: must be >= 1, got -1"),
    (f"image: a\n{VOLUMES}\nrdma: {{rdma/ib: 10000000}}", "rdma.rdma/ib: must be <= 1000000, got 10000000"),
    (f"image: a\n{VOLUMES}\ntolerations: [{{value: x, operator: Equal}}]", "operator Equal needs a key"),
    (f"image: a\n{VOLUMES}\ntolerations: [{{value: x, key: k, operator: Exists}}]", "Exists takes no value"),
    ("image: a\nvolumes: {models: m, data: {claim: d}, runs: {claim: r}}", "volumes.models: must be a section of"),
]


@pytest.mark.parametrize(("text", "said"), PROFILES)
def test_what_a_profile_refuses(folder: Path, text: str, said: str) -> None:
    with pytest.raises((KctlError, ConfigError)) as caught:
        profile(text)
    assert f"clusters/mine.yaml: {said}" in str(caught.value) or said in str(caught.value)


def test_a_toleration_with_a_value_compares_it(folder: Path) -> None:
    value = [{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}, {"key": "k"}, {}]
    claims = {name: {"claim": "c"} for name in ("models", "data", "runs")}
    found = validated(ClusterProfile, {"image": "a", "volumes": claims, "tolerations": value}, "test").tolerations
    assert [item.operator for item in found] == ["Equal", "Exists", "Exists"]


def test_a_name_that_is_none_gets_a_near_one(folder: Path) -> None:
    for name, near in (("für_müll", "fur-mull"), ("Lora_DI3", "lora-di3")):
        assert problem(f"extends: demo\nname: {name}\n").endswith(f"; try {near}")


def test_a_config_s_name_comes_before_a_folder_of_that_name(folder: Path) -> None:
    for name in ("demo", "more"):
        (folder / name).mkdir()
        (folder / name / "x.yaml").write_text("{}")
    assert configs_in("demo") == ["demo"], "the shipped one; the checkout has such a folder"
    assert configs_in("demo/") == configs_in("./demo") == ["demo/x.yaml"] and configs_in("more") == ["more/x.yaml"]
