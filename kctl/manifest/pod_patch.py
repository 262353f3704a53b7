"""A strategic merge of a pod's spec, as `kubectl patch` would do it, for what a profile has no field for.

Maps merge, null removes, and the lists that Kubernetes merges by a key are merged by that key.
"""

from collections.abc import Iterator
from typing import Any

from kctl.errors import UsageError

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Of the pod's lists: merged by this key. All other lists replace."""


def patched(spec: dict[str, Any], patch: dict[str, Any], where: str) -> dict[str, Any]:
    """`spec` with `patch` merged in; `spec` stays as it was. UsageError where an element lacks its key."""
    result = dict(spec)
    for key, given in patch.items():
        here = f"{where}.{key}"
        if key.startswith("$"):
            raise UsageError(
                f"{here}: directives are not supported except $patch: delete in a list; use null to remove"
            )
        old = result.get(key)
        if given is None:
            result.pop(key, None)
        elif key in MERGE_KEYS and isinstance(given, list):
            result[key] = _merged_list(old if isinstance(old, list) else [], given, key, here)
        elif isinstance(given, dict):
            result[key] = patched(old if isinstance(old, dict) else {}, given, here)
        else:
            result[key] = given
    return result


def _merged_list(old: list[Any], given: list[Any], kind: str, where: str) -> list[Any]:
    key = MERGE_KEYS[kind]
    found = {item[key]: item for item in old}
    for index, item in enumerate(given):
        here = f"{where}[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get(key), str | int):
            raise UsageError(f"{here}: needs {key!r}, by which it is merged")
        name = item[key]
        if item.get("$patch") == "delete":
            found.pop(name, None)
        else:
            # A variable or a volume has one source: a new one replaces the old instead of standing beside it.
            before = {} if kind in ("env", "volumes") else found.get(name, {})
            found[name] = patched(before, item, here)
    return list(found.values())


_ENTRY = {"name": str, "value": str, "valueFrom": dict}
_SECURITY = {"seccompProfile": {"type": str}, "capabilities": {"add": [str], "drop": [str]}}
_CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [_ENTRY],
    "volumeMounts": [{"name": str, "mountPath": str}],
    "resources": {"limits": dict, "requests": dict},
    "securityContext": _SECURITY,
}
_POD = {
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "volumes": [{"name": str, "emptyDir": {"sizeLimit": str}}],
    "securityContext": _SECURITY,
    "imagePullSecrets": [{"name": str}],
    "terminationGracePeriodSeconds": int,
}
"""The parts of a pod that kctl looks into, as far as their types; the API server knows the rest."""

_REQUIRED = ("name", "mountPath")


def must_be_pod(spec: dict[str, Any], where: str) -> None:
    """UsageError where a patched pod has the wrong type in a part that kctl looks into."""
    for part, problem in _wrong(spec, _POD, ""):
        raise UsageError(f"{where}{part}: {problem}")


def _wrong(value: Any, shape: Any, part: str) -> Iterator[tuple[str, str]]:
    if isinstance(shape, type):
        if not isinstance(value, shape) or isinstance(value, bool):
            yield part, f"must be a {_WORDS[shape]}, got {type(value).__name__}"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield part, f"must be a list, got {type(value).__name__}"
            return
        for index, item in enumerate(value):
            yield from _wrong(item, shape[0], f"{part}[{index}]")
    elif not isinstance(value, dict):
        yield part, f"must be a map, got {type(value).__name__}"
    else:
        for key, inner in shape.items():
            if key in value:
                yield from _wrong(value[key], inner, f"{part}.{key}")
            elif key in _REQUIRED:
                yield part, f"needs {key!r}"


_WORDS: dict[type, str] = {str: "text in quotes", int: "whole number", dict: "map"}
