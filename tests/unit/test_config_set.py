"""--set: paths are checked against the schema, values are YAML, null removes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.config.overrides import apply_set
from kctl.config.run_config import RunConfig, load
from kctl.errors import KctlError, UsageError
from trainer.errors import ConfigError


def test_values_are_yaml_and_later_ones_win() -> None:
    sets = ["train.lora.rank=16", "train.lora.rank=32", "train.optim.lr=1e-4", "train.lora.targets=[q_proj, v_proj]"]
    train = load("lora_di3", sets).config.train
    assert train.lora is not None
    assert (train.lora.rank, train.optim.lr, train.lora.targets) == (32, 1e-4, ("q_proj", "v_proj"))


def test_null_is_null_where_it_can_be_and_removes_elsewhere() -> None:
    config = load(
        "lora_di3",
        ["train.evaluation.patience=null", "train.optim.max_grad_norm=null", "train.epochs=null", "cluster.max_hours="],
    ).config
    assert config.train.evaluation.patience is None
    assert config.train.optim.max_grad_norm is None
    assert config.train.epochs == 1  # the default
    assert config.cluster.max_hours is None


def test_sections_and_map_entries_can_be_written() -> None:
    sets = ["train.ops.wandb={project: p}", "cluster.env.A=1", "cluster.env.T={secret: s, key: k}", "cluster.env.B=x"]
    config = load("lora_di3", [*sets, "cluster.env.B=null"]).config
    assert config.train.ops.wandb is not None and config.train.ops.wandb.project == "p"
    assert set(config.cluster.env) == {"A", "T"} and config.cluster.env["A"] == "1"


def test_a_section_that_was_null_is_created() -> None:
    config = load("full_di3", ["train.method=lora", "train.lora.rank=8"]).config
    assert config.train.lora is not None and config.train.lora.rank == 8


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("train.lora.rnk=3", "did you mean 'rank'"),
        ("trian.lora.rank=3", "did you mean 'train'"),
        ("train.lora.r=3", "did you mean 'rank'"),
        ("train.lora.use_dora=true", "DoRA is not supported"),
        ("train.lora.rank.deep=3", "train.lora.rank has no fields below it"),
        ("train.lora.targets.0=q_proj", "has no fields below it"),
        ("train.lora.rank", "write PATH=VALUE"),
        ("=3", "write PATH=VALUE"),
        ("train..rank=3", "unknown key ''"),
        ("train.lora.rank=[1", "--set train.lora.rank:"),
        ("extends=x", "unknown key 'extends'"),
    ],
)
def test_what_is_refused(assignment: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        load("lora_di3", [assignment])
    assert problem in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=40) | st.builds("{}={}".format, st.text("train.loacus._envk", max_size=20), st.text(max_size=20))
)
def test_any_text_is_applied_or_refused(assignment: str) -> None:
    try:
        apply_set(RunConfig, {"train": {"lora": None}}, assignment)
    except (KctlError, ConfigError) as error:
        assert "\n" not in str(error)
