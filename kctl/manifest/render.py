"""From a run config and a cluster profile to manifests: values -> templates -> checked -> canonical YAML.

Needs no cluster and no clock; equal input gives equal bytes.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kctl.config.kubernetes_names import quantity
from kctl.config.profile import ClusterProfile
from kctl.config.run_config import RunConfig
from kctl.config.yaml_reader import parse_yaml
from kctl.manifest import Manifest
from kctl.manifest.pod_patch import must_be_pod, patched
from kctl.manifest.preflight import check
from kctl.manifest.values import Values, values_of
from trainer.schema import contract
from trainer.schema.identity import canonical
from trainer.schema.memory import ROW, Room, full_run, too_large

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
_DIGEST = contract.ANNOTATION_MANIFEST


@dataclass(frozen=True)
class Rendered:
    """One run's objects in the order of their creation, and what a person should know before submitting."""

    run: str
    manifests: list[Manifest]
    warnings: list[str]


def render(config: RunConfig, profile: ClusterProfile, namespace: str | None) -> Rendered:
    """The run's ConfigMap and PyTorchJob. `namespace` wins over the profile's; UsageError where a trap is seen."""
    values = values_of(config, profile, namespace)
    config_map, job = (_filled(name, values) for name in ("configmap.yaml.j2", "pytorchjob.yaml.j2"))
    template = job["spec"]["pytorchReplicaSpecs"][values.replica]["template"]
    where = f"profile {config.cluster.profile}: pod_patch"
    template["spec"] = patched(template["spec"], profile.pod_patch, where)
    must_be_pod(template["spec"], where)
    manifests = [config_map, job]
    warnings = check(job)
    if values.nodes > 1 and profile.queue.kind == "none":
        warnings.append(
            f"{values.nodes} nodes without a queue: two half-started runs can block each other; "
            f"set queue in profile {config.cluster.profile}"
        )
    warnings += _too_large(config, profile)
    job["metadata"] = {**job["metadata"], "annotations": {_DIGEST: digest_of(manifests)}}
    return Rendered(values.run, manifests, warnings)


def digest_of(manifests: list[Manifest]) -> str:
    """sha256 over all that was rendered, without the annotation that holds it."""
    *others, job = manifests
    metadata = {key: value for key, value in job["metadata"].items() if key != "annotations"}
    notes = {key: value for key, value in (job["metadata"].get("annotations") or {}).items() if key != _DIGEST}
    bare = {**job, "metadata": {**metadata, **({"annotations": notes} if notes else {})}}
    return hashlib.sha256(canonical([*others, bare]).encode()).hexdigest()


def _too_large(config: RunConfig, profile: ClusterProfile) -> list[str]:
    """The pods look for themselves, at the GPUs that they get: a profile's words refuse nothing."""
    train, tokens = config.train, config.train.ops.max_tokens
    if train.method != "full" or config.shape is None or profile.gpu is None:
        return []
    row = ROW if tokens == "auto" else tokens
    run = full_run(config.shape, train, row)
    host = float(quantity(profile.memory))
    room = Room(config.cluster.ranks, profile.gpu.memory_gib * 2**30, config.cluster.nodes, host)
    reason = too_large(run, room)
    return [] if reason is None else [reason]


def to_yaml(manifests: list[Manifest]) -> str:
    """One YAML document each, for kubectl, kustomize and Git."""
    import yaml

    class Dumper(yaml.CSafeDumper):
        """Strings are quoted unless every YAML parser reads them back as strings."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar(_STRING, text, style=_style(text)))
    return yaml.dump_all(
        manifests, Dumper=Dumper, sort_keys=False, explicit_start=True, allow_unicode=True, width=2**20
    )


_STRING = "tag:yaml.org,2002:str"
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_YAML_1_1_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def _style(text: str) -> str | None:
    if "\n" in text:
        return "|"
    return None if _PLAIN.fullmatch(text) and text.lower() not in _YAML_1_1_WORDS else '"'


def _filled(template: str, values: Values) -> Manifest:
    text = _environment().get_template(template).render(values=values, contract=contract)
    manifest: Manifest = parse_yaml(text, f"template {template}")
    return manifest


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # optimized only folds constants, which these templates do not have, and takes a tenth of the start.
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, optimized=False)
    environment.filters["scalar"] = scalar
    return environment


def scalar(value: Any) -> str:
    """Any JSON value as one line of YAML: nothing in it can end the line or change the structure."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)
