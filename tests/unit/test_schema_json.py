"""The generated JSON schema: fresh, documented, and accepting every shipped config as an editor would."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kctl.config.json_schema import run_schema
from kctl.config.resolve import shipped_configs
from kctl.config.yaml_reader import read_yaml

SHIPPED = sorted(shipped_configs().glob("*.yaml"))


def test_the_shipped_schema_is_fresh() -> None:
    path = shipped_configs() / "run.schema.json"
    assert path.read_text() == run_schema(), f"stale: kctl schema > {path}"


def test_every_field_has_a_description() -> None:
    schema = json.loads(run_schema())
    sections: list[tuple[str, dict[str, Any]]] = [("RunConfig", schema), *schema["$defs"].items()]
    for name, section in sections:
        for field, value in section.get("properties", {}).items():
            assert value.get("description"), f"{name}.{field} has no docstring"
        assert section.get("description"), f"{name} has no docstring"


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_configs_pass_it(path: Path) -> None:
    jsonschema.Draft202012Validator(json.loads(run_schema())).validate(read_yaml(path))


@pytest.mark.parametrize("value", [{"nme": "x"}, {"train": {"lora": {"rnk": 1}}}, {"train": {"lora": {"rank": 0}}}])
def test_it_marks_what_kctl_refuses(value: Any) -> None:
    assert not jsonschema.Draft202012Validator(json.loads(run_schema())).is_valid(value)
