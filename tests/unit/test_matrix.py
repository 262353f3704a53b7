"""--matrix: which runs one command line means, and which it refuses before anything is submitted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.config.yaml_reader import parse_yaml
from kctl.errors import NotFound, UsageError
from kctl.run.matrix import MOST, combinations, shown, variants, written


def test_values_are_yaml_and_the_first_path_changes_slowest() -> None:
    found = combinations(["train.lora.rank=32,64", "train.optim.schedule=linear, cosine"])
    assert [written(fields) for fields in found] == [
        "train.lora.rank=32 train.optim.schedule=linear",
        "train.lora.rank=32 train.optim.schedule=cosine",
        "train.lora.rank=64 train.optim.schedule=linear",
        "train.lora.rank=64 train.optim.schedule=cosine",
    ]
    assert combinations(["a=[q_proj],[q_proj, v_proj]"]) == [(("a", '["q_proj"]'),), (("a", '["q_proj", "v_proj"]'),)]
    assert combinations(["a='x,y',1e-4,null"]) == [(("a", '"x,y"'),), (("a", "0.0001"),), (("a", "null"),)]


@pytest.mark.parametrize("text", ["", "rank", "=1,2", "rank=", "rank= ", "rank=[1,2", "rank=1],[2", "rank=1,,2}"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--matrix"):
        combinations([text])


def test_too_many_runs_and_a_path_named_twice_are_refused() -> None:
    many = ",".join(str(number) for number in range(1, 16))
    with pytest.raises(UsageError, match=f"225 runs, at most {MOST}"):
        combinations([f"a={many}", f"b={many}"])
    with pytest.raises(UsageError, match="named twice"):
        combinations(["a=1,2", "a=3"])


TEXTS = st.text(st.characters(exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=8)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), TEXTS)


@given(st.lists(SCALARS, min_size=1, max_size=5))
def test_each_value_means_the_same_alone_as_in_its_list(values: list[object]) -> None:
    try:
        found = combinations(["a=" + ",".join(json.dumps(value) for value in values)])
    except UsageError:  # a control character, which no config may have
        return
    assert [parse_yaml(value, "x") for ((_, value),) in found] == values
    assert all(shown(value) for ((_, value),) in found if value != '""')


def test_each_run_is_checked_before_one_is_made() -> None:
    made = variants("lora_di3", ["train.epochs=3"], ["train.lora.rank=32,64,128"], None)
    assert [one.loaded.config.train.lora.rank for one in made if one.loaded.config.train.lora] == [32, 64, 128]
    assert len({one.run for one in made}) == 3 and all(one.loaded.config.train.epochs == 3 for one in made)
    with pytest.raises(UsageError, match=r"--matrix train.lora.rank=0: .*must be >= 1, got 0"):
        variants("lora_di3", [], ["train.lora.rank=32,0"], None)
    with pytest.raises(UsageError, match=r"cluster.nodes=1 and cluster.nodes=2 are one run, lora-di3-"):
        variants("lora_di3", [], ["cluster.nodes=1,2"], None)
    with pytest.raises(UsageError, match="did you mean"):
        variants("lora_di3", [], ["train.lora.rnak=32"], None)
    with pytest.raises(NotFound):
        variants("no-such-config", [], ["train.lora.rank=32"], None)
