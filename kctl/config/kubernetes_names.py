"""The shapes of names and quantities that Kubernetes accepts, checked before anything is sent."""

import re
import unicodedata
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

MAX_NAME = 43
"""Longest config name: 52 (a run's name) - 1 (dash) - 8 (hex of its content)."""

LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", re.ASCII)
_DATA_KEY = re.compile(r"(?!\.$|\.\.)[-._a-zA-Z0-9]*")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_UNITS: dict[str | None, Decimal] = {None: Decimal(1), "m": Decimal("0.001")}
for power, letter in enumerate("kMGTP", start=1):
    _UNITS[letter] = Decimal(1000**power)
    _UNITS[letter.upper() + "i"] = Decimal(1024**power)


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity in its base unit ('500m' -> 0.5, '2Gi' -> 2147483648). ValueError otherwise."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a quantity like 8, 500m or 64Gi, got {text!r}")
    return Decimal(match[1]) * _UNITS[match[2]]


def _run_prefix(name: str) -> str:
    if len(name) > MAX_NAME or not LABEL_1035.fullmatch(name):
        plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()  # of letters with dots
        fixed = re.sub(r"[^a-z0-9]+", "-", plain)[:MAX_NAME].strip("-")
        hint = f"; try {fixed}" if LABEL_1035.fullmatch(fixed) else ""
        raise ValueError(
            f"must be a DNS label of at most {MAX_NAME} characters: lower-case letters, digits and -, "
            f"starting with a letter, got {name!r}{hint}"
        )
    return name


def _label(name: str) -> str:
    if len(name) > 63 or not _LABEL.fullmatch(name):
        raise ValueError(f"must be a DNS label: at most 63 lower-case letters, digits and -, got {name!r}")
    return name


def _is_subdomain(name: str) -> bool:
    return len(name) <= 253 and all(_LABEL.fullmatch(part) for part in name.split("."))


def _subdomain(name: str) -> str:
    if not _is_subdomain(name):
        raise ValueError(f"must be the name of an object: lower-case letters, digits, - and ., got {name!r}")
    return name


def _positive(text: str) -> str:
    if quantity(text) <= 0:
        raise ValueError(f"must be more than 0, got {text!r}")
    return text


def _image(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][^\s]*", name):
        raise ValueError(f"must be the name of an image, e.g. REGISTRY/NAME@sha256:..., got {name!r}")
    return name


def _label_key(name: str) -> str:
    prefix, slash, word = name.rpartition("/")
    if not _WORD.fullmatch(word) or (slash and not _is_subdomain(prefix)):
        raise ValueError(f"must be the key of a label, e.g. gpu or example.com/gpu, got {name!r}")
    return name


def _label_value(text: str) -> str:
    if text and not _WORD.fullmatch(text):
        raise ValueError(f"must be a label's value: at most 63 letters, digits, -, _ and ., got {text!r}")
    return text


def _data_key(name: str) -> str:
    if not _DATA_KEY.fullmatch(name):
        raise ValueError(f"must be a key of its data: letters, digits, -, _ and ., not starting with .., got {name!r}")
    return name


def _resource(name: str) -> str:
    prefix, _, word = name.rpartition("/")
    if not _WORD.fullmatch(word) or not _is_subdomain(prefix) or prefix.endswith("kubernetes.io"):
        raise ValueError(f"must be the name of an extended resource, e.g. nvidia.com/gpu, got {name!r}")
    return name


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


RunPrefix = Annotated[str, AfterValidator(_run_prefix)]
"""The part of a run's name that a person chooses."""
Label = Annotated[str, AfterValidator(_label)]
"""A DNS label: a namespace, a queue."""
ObjectName = Annotated[str, AfterValidator(_subdomain)]
"""The name of a claim, a Secret, a PriorityClass."""
LabelKey = Annotated[str, AfterValidator(_label_key)]
"""The key of a label or of a taint."""
LabelValue = Annotated[str, AfterValidator(_label_value)]
"""The value of a label or of a taint."""
DataKey = Annotated[str, AfterValidator(_data_key)]
"""A key in the data of a Secret."""
Image = Annotated[str, AfterValidator(_image)]
"""The name of a container image."""
Resource = Annotated[str, AfterValidator(_resource)]
"""The name of an extended resource."""
Quantity = Annotated[str, BeforeValidator(_as_text), AfterValidator(_positive)]
"""A positive Kubernetes quantity; a plain number will do."""
