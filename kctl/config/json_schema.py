"""The JSON schema of a run config, as editors want it: with the docstrings, with `extends`, nothing required.

What is required depends on what a config extends, so `kctl validate` says that, not the editor.
"""

import ast
import inspect
import json
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from kctl.config.run_config import RunConfig

_EXTENDS = {"type": "string", "description": "Name of a config that this one is laid over, key by key; lists replace."}


def run_schema() -> str:
    """The schema as JSON text, deterministic."""
    schema = RunConfig.model_json_schema(schema_generator=_Described)
    schema["properties"] = {"extends": _EXTENDS, **schema["properties"]}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_required(schema)}
    return json.dumps(schema, indent=2, ensure_ascii=True) + "\n"


class _Described(GenerateJsonSchema):
    """Adds what the docstring under each field says."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        found = super().model_schema(schema)
        for name, text in field_docs(schema["cls"]).items():
            if name in found.get("properties", {}):
                found["properties"][name]["description"] = text
        return found


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field of `model`'s own class body, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Constant):
            found[field.target.id] = " ".join(str(text.value).split())
    return found


def _without_required(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_required(inner) for key, inner in value.items() if key != "required"}
    return [_without_required(inner) for inner in value] if isinstance(value, list) else value
