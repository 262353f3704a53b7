"""What differs between two runs' manifests, field by field, in the words of the config where it says them.

`train.lora.rank` is a field of the ConfigMap's config, `pod.containers[pytorch].image` one of the pods' template; what
a server adds to every object is left out. Lists that Kubernetes merges by a key are compared by that key.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kctl.config.secrets import secret_problem, token_in
from kctl.manifest import Manifest
from kctl.manifest.pod_patch import MERGE_KEYS
from trainer.schema.contract import LABEL_RUN

OTHERS = (
    "namespace",
    "labels",
    "pod.labels",
    "pod.annotations",
    "pod.nodeSelector",
    "pod.tolerations",
    "pod.schedulingGates",
)
"""What queues and GitOps controllers add to in a live job; k8s/argocd/ignore-differences.yaml has the same."""

_WIDTH = 160
"""Characters of a value that are shown: an image's name with its digest fits."""
_ENV = re.compile(r"\.env\[(.+)\]$")


@dataclass(frozen=True)
class Difference:
    """One field; None where a side does not have it."""

    field: str
    there: Any
    wanted: Any

    @property
    def columns(self) -> tuple[str, str, str]:
        """The field and its two values as a person reads them; what looks like a secret is not shown."""
        return self.field, _shown(self.field, self.there), _shown(self.field, self.wanted)


def fields_of(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """A run's ConfigMap, where it is given, and PyTorchJob as what is worth comparing."""
    found: dict[str, Any] = {}
    for manifest in manifests:
        found |= _config(manifest) if manifest.get("kind") == "ConfigMap" else _job(manifest)
    return found


def _config(config_map: Manifest) -> dict[str, Any]:
    data: dict[str, Any] = config_map.get("data") or {}
    try:
        train = json.loads(data["config.json"])["train"]
    except (KeyError, TypeError, ValueError, RecursionError):
        train = data  # somebody's edit: shown as it is
    return {"train": train}


def _job(job: Manifest) -> dict[str, Any]:
    metadata, spec = job.get("metadata") or {}, job.get("spec") or {}
    specs: dict[str, Manifest] = spec.get("pytorchReplicaSpecs") or {}
    replica = next(iter(specs), "")
    replicas = specs.get(replica) or {}
    template = replicas.get("template") or {}
    about = template.get("metadata") or {}
    pod = {**(template.get("spec") or {}), "labels": about.get("labels"), "annotations": about.get("annotations")}
    pod["volumes"] = [one for one in pod.get("volumes") or [] if "configMap" not in one]  # `train` says what is in it
    policy = {key: value for key, value in (spec.get("runPolicy") or {}).items() if key != "suspend"}  # that is a phase
    return {
        "namespace": metadata.get("namespace"),
        "labels": {key: value for key, value in (metadata.get("labels") or {}).items() if key != LABEL_RUN},
        "replica": replica,
        "nodes": replicas.get("replicas"),
        "restartPolicy": replicas.get("restartPolicy"),
        "nprocPerNode": spec.get("nprocPerNode"),
        "runPolicy": policy,
        "pod": {**pod, "labels": {key: value for key, value in (pod["labels"] or {}).items() if key != LABEL_RUN}},
    }


def differences(there: Any, wanted: Any, field: str = "") -> Iterator[Difference]:
    """Each field that differs, in the order of `there`; null, empty and absent are the same."""
    sides = (there, wanted)
    if any(isinstance(one, dict) for one in sides) and all(one is None or isinstance(one, dict) for one in sides):
        yield from _of_maps(there or {}, wanted or {}, lambda key: f"{field}.{key}" if field else str(key))
    elif any(isinstance(one, _Keyed) for one in sides) and all(one is None or isinstance(one, _Keyed) for one in sides):
        items = [one.items if one else {} for one in sides]
        yield from _of_maps(items[0], items[1], lambda key: f"{field}[{key}]")
    elif there != wanted and not (_empty(there) and _empty(wanted)):
        yield Difference(field, _plain(there), _plain(wanted))


def _of_maps(there: dict[Any, Any], wanted: dict[Any, Any], name: Callable[[Any], str]) -> Iterator[Difference]:
    for key in [*there, *(key for key in wanted if key not in there)]:
        yield from differences(_keyed(key, there.get(key)), _keyed(key, wanted.get(key)), name(key))


def of_a_live_run(there: Sequence[Manifest], wanted: Sequence[Manifest]) -> list[Difference]:
    """Differences of a live run's objects from what would be rendered, but for what others add to a live job."""
    found = differences(fields_of(there), fields_of(wanted))
    return [one for one in found if not (one.field.startswith(OTHERS) and _added_to(one))]


def _added_to(one: Difference) -> bool:
    """True where `there` has all that is wanted, and more."""
    if isinstance(one.there, list):
        return all(item in one.there for item in one.wanted or [])
    return one.wanted is None


@dataclass(frozen=True)
class _Keyed:
    """A list whose items have names."""

    items: dict[Any, Any]


def _keyed(key: str, value: Any) -> Any:
    name = MERGE_KEYS.get(key)
    if name is None or not isinstance(value, list):
        return value
    if not all(isinstance(one, dict) and isinstance(one.get(name), str | int) for one in value):
        return value
    if key == "env":
        return _Keyed({one[name]: one.get("value", one.get("valueFrom")) for one in value})
    return _Keyed({one[name]: one for one in value})


def _plain(value: Any) -> Any:
    return list(value.items.values()) if isinstance(value, _Keyed) else value


def _empty(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_empty, value.values()))
    return value is None or value == [] or (isinstance(value, _Keyed) and not value.items)


def _shown(field: str, value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    named = _ENV.search(field)
    if token_in(text) or (named and secret_problem(named[1], text)):
        return "(looks like a secret)"
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
