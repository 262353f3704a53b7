"""`--set train.lora.rank=32`: one field of a config from the command line, checked against the schema first."""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from kctl.config.yaml_reader import parse_yaml
from kctl.errors import UsageError
from trainer.schema.section import Section


def apply_set(model: type[Section], value: dict[str, Any], assignment: str) -> None:
    """Write PATH=VALUE into `value`. VALUE is YAML; null removes what cannot be null.

    UsageError where the path is no field of `model`, naming the nearest.
    """
    path, equals, text = assignment.partition("=")
    path = " ".join(path.split())
    if not equals or not path:
        raise UsageError(f"--set {path}: write PATH=VALUE, e.g. --set train.lora.rank=32")
    keys = path.split(".")
    annotation = _annotation(model, keys, path)
    given = parse_yaml(text, f"--set {path}")
    for key in keys[:-1]:
        inner = value.get(key)
        value[key] = dict(inner) if isinstance(inner, dict) else {}
        value = value[key]
    if given is None and NoneType not in _members(annotation):
        value.pop(keys[-1], None)
    else:
        value[keys[-1]] = given


def _annotation(model: type[Section], keys: list[str], path: str) -> Any:
    annotation: Any = model
    for depth, key in enumerate(keys):
        members = list(_members(annotation))
        section = next((item for item in members if isinstance(item, type) and issubclass(item, Section)), None)
        mapping = next((item for item in members if get_origin(item) is dict), None)
        so_far = ".".join(keys[:depth])
        if mapping is not None and key:
            annotation = get_args(mapping)[1]
        elif section is None:
            raise UsageError(f"--set {path}: {so_far} has no fields below it")
        elif key not in section.model_fields:
            raise UsageError(f"--set {path}: {so_far + ': ' if so_far else ''}{section.unknown(key, so_far)}")
        else:
            annotation = section.model_fields[key].annotation
    return annotation


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation
