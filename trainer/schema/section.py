"""The one base of every section: frozen, strict about keys, and refusing by name what this product does not do."""

import difflib
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from trainer.schema.sentences import written

REFUSED = {
    "qlora": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "load_in_4bit": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "load_in_8bit": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "quantization": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "use_qlora": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "quantization_config": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "dora": "DoRA is not supported: use plain lora; remove it",
    "use_dora": "DoRA is not supported: use plain lora; remove it",
    "modules_to_save": "modules_to_save is not supported: it would ship full matrices; remove it",
    "trust_remote_code": "trust_remote_code does not exist: no code is run from a model folder; remove it",
}
"""Keys that ask for what this product does not do -> what to do instead."""

RENAMED = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "learning_rate": "lr",
    "batch_size": "global_batch_size",
    "num_train_epochs": "epochs",
}
"""Keys as other trainers call them -> ours."""


class Section(BaseModel):
    """A part of a config file. Unknown keys are errors that name the nearest known key."""

    # Not use_attribute_docstrings: it reads every module's source at import, a third of the time kctl has to start.
    # kctl.config.json_schema takes the docstrings where they are needed.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, allow_inf_nan=False)

    shorthand: ClassVar[str | None] = None
    """The field that people mean who write one value instead of the section."""
    file_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the file that are no fields: what reads the file takes them out."""

    @model_validator(mode="before")
    @classmethod
    def _keys_and_numbers(cls, value: Any) -> Any:
        if isinstance(value, Section):
            return value
        if not isinstance(value, dict):
            raise PydanticCustomError("no_section", "{problem}", {"problem": cls._no_section(value)})
        for key, given in value.items():
            field = cls.model_fields.get(str(key))
            if field is None:
                raise PydanticCustomError("unknown_key", "unknown key {key}", {"key": str(key), "section": cls})
            if isinstance(given, bool) and _is_number(field.annotation):
                raise PydanticCustomError(
                    "bool_as_number", "{key} must be a number, got {given}", {"key": key, "given": str(given).lower()}
                )
        return value

    @classmethod
    def unknown(cls, key: str, place: str = "") -> str:
        """What to say of a key that this section at `place` does not have: where it belongs, or why it is refused."""
        if key in REFUSED:
            return f"unknown key {key!r}: {REFUSED[key]}"
        if key in cls.file_keys:
            return f"unknown key {key!r}: it can only be written in the file"
        ours = RENAMED.get(key, key)
        deeper = [f"{place}.{path}" if place else path for path in _places(cls, ours)]
        known = [*cls.file_keys, *cls.model_fields]
        near = [ours] if ours in known else difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        if deeper and ours not in known:
            hint = f"did you mean {' or '.join(deeper[:3])}?"
        else:
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {key!r}, {hint}"

    @classmethod
    def _no_section(cls, value: Any) -> str:
        if cls.shorthand and isinstance(value, str | int | float) and not isinstance(value, bool):
            return f"must be a section of fields: write {{{cls.shorthand}: {written(value)}}}"
        return f"must be a section of fields: {', '.join(cls.model_fields)}"


def _places(section: type[Section], key: str) -> list[str]:
    """Paths of the fields called `key` in the sections below `section`, of the highest level that has any."""
    level = list(_sections(section))
    while level:
        found = [f"{path}.{key}" for path, inner in level if key in inner.model_fields]
        if found:
            return found
        level = [(f"{path}.{name}", deep) for path, inner in level for name, deep in _sections(inner)]
    return []


def _sections(section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    for name, field in section.model_fields.items():
        union = typing.get_origin(field.annotation) in (typing.Union, UnionType)
        for member in typing.get_args(field.annotation) if union else (field.annotation,):
            if isinstance(member, type) and issubclass(member, Section):
                yield name, member


def _is_number(annotation: Any) -> bool:
    members = typing.get_args(annotation) or (annotation,)
    return bool not in members and any(member in (int, float) for member in members)
