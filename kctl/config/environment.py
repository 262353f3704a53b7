"""Environment variables as configs and profiles write them: NAME: literal, or NAME: {secret, key}."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from kctl.config.kubernetes_names import DataKey, ObjectName
from kctl.config.secrets import name_problem, secret_problem, token_in
from trainer.schema.section import Section


class SecretKey(Section):
    """One key of a Secret in the run's namespace; the value never leaves the cluster."""

    secret: ObjectName
    """Name of the Secret."""
    key: DataKey = Field(min_length=1, max_length=253)
    """Key in its data."""

    @model_validator(mode="after")
    def _names_only(self) -> Self:
        if token_in(self.secret) or token_in(self.key):
            raise ValueError("secret and key are names, but one of them looks like the secret itself")
        return self


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "reference"


Value = Annotated[Annotated[str, Tag("text")] | Annotated[SecretKey, Tag("reference")], Discriminator(_kind)]


def _literals(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for name, given in value.items():
        problem = name_problem(str(name))
        if problem:
            raise ValueError(problem)
        if isinstance(given, bool | float) or given is None:
            raise ValueError(f'{name} must be text: write it in quotes, "..."')
    return {name: str(given) if isinstance(given, int) else given for name, given in value.items()}


def _checked(env: "dict[str, str | SecretKey]") -> "dict[str, str | SecretKey]":
    for name, given in env.items():
        problem = secret_problem(name, given) if isinstance(given, str) else None
        if problem:
            raise ValueError(problem)
    return env


Env = Annotated[dict[str, Value], BeforeValidator(_literals), AfterValidator(_checked)]
"""Names to literals or references. Token-like literals and names that the platform sets are refused."""


def entries(env: Env) -> list[dict[str, Any]]:
    """As a container's `env` list, in the order of the map."""
    return [
        {"name": name, "value": given}
        if isinstance(given, str)
        else {"name": name, "valueFrom": {"secretKeyRef": {"name": given.secret, "key": given.key}}}
        for name, given in env.items()
    ]
