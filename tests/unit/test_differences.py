"""Differences between manifests: none where they say the same, each field where they do not."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kctl.manifest.differences import differences, fields_of
from kctl.manifest.pod_patch import MERGE_KEYS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*MERGE_KEYS, "name", "x"]), inner),
    max_leaves=8,
)


def said(value: Any) -> Any:
    """`value` without what says nothing: null, and maps and lists of nothing in a map."""
    if not isinstance(value, dict):
        return value
    inner = {key: said(one) for key, one in value.items()}
    return {key: one for key, one in inner.items() if one is not None and one != {} and one != []}


@given(JSON, JSON)
def test_equal_or_named(there: Any, wanted: Any) -> None:
    assert list(differences(there, there)) == []
    one, other = ({"x": value} for value in (there, wanted))
    found, back = list(differences(one, other)), list(differences(other, one))
    assert {item.field for item in found} == {item.field for item in back}
    if said(one) == said(other):
        assert found == []
    for item in found:
        assert len(item.columns) == 3 and all(isinstance(text, str) for text in item.columns)


def test_a_list_is_compared_by_the_key_that_kubernetes_merges_it_by() -> None:
    there = {"env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}
    wanted = {"env": [{"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "y"}}}, {"name": "A", "value": "1"}]}
    found = [item.columns for item in differences({"c": there}, {"c": wanted})]
    assert found == [("c.env[B].fieldRef.fieldPath", "x", "y")]
    mixed: dict[str, Any] = {"ports": [{"containerPort": [1]}, 7]}
    assert [item.field for item in differences(mixed, {"ports": []})] == ["ports"], "no list of named things: as one"


def test_an_edited_config_is_shown_as_it_is() -> None:
    for data in ({"config.json": "no JSON"}, {"config.json": "[]"}, {"other": "x"}):
        assert fields_of([{"kind": "ConfigMap", "data": data}]) == {"train": data}
