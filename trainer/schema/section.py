"""The one base of every section: frozen, strict about keys, and refusing by name what this product does not do."""

import difflib
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

REFUSED = {
    "qlora": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "load_in_4bit": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "load_in_8bit": "QLoRA is not supported: frozen weights stay bf16; remove it",
    "quantization": "QLoRA is not supported: frozen weights stay bf16; remove it",
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

    @model_validator(mode="before")
    @classmethod
    def _keys_and_numbers(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for key, given in value.items():
            field = cls.model_fields.get(str(key))
            if field is None:
                raise PydanticCustomError("unknown_key", "{problem}", {"problem": cls.unknown(str(key))})
            if isinstance(given, bool) and _is_number(field.annotation):
                raise PydanticCustomError(
                    "bool_as_number", "{key} must be a number, got {given}", {"key": key, "given": str(given).lower()}
                )
        return value

    @classmethod
    def unknown(cls, key: str) -> str:
        """What to say of a key that this section does not have: the nearest known one, or why it is refused."""
        if key in REFUSED:
            return f"unknown key {key!r}: {REFUSED[key]}"
        renamed = [RENAMED[key]] if RENAMED.get(key) in cls.model_fields else []
        near = renamed or difflib.get_close_matches(key, cls.model_fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(cls.model_fields)}"
        return f"unknown key {key!r}, {hint}"


def _is_number(annotation: Any) -> bool:
    members = typing.get_args(annotation) or (annotation,)
    return bool not in members and any(member in (int, float) for member in members)
