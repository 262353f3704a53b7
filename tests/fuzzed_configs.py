"""Run configs and cluster profiles as nobody would write them: for the tests that fuzz (faults, cluster).

A sound pair of files, with fields changed to other sound values, text of the worst kind that is allowed among them; in
a part of the examples spoiled by values, keys and text that are wrong.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.cli.profiles import DIGEST

MEAN = [
    *("{{ 7 * 7 }}", "{% include 'pod.yaml.j2' %}", "{# #}", "x\n  hostNetwork: true", "---\nkind: Pod", "...\n---\n"),
    *(
        "*a",
        "&a x",
        "!!python/object/apply:os.system [true]",
        "<<",
        "null",
        "~",
        "on",
        "no",
        "true",
        "0x10",
        "1e3",
        ".nan",
    ),
    *("a: b # c", "- a", "? a", "| ", ">-", "%YAML 1.1", "@x", "`x`", "'", '"', "\\", '"}\n', "'\n- x", "]", "}", ","),
    *("\u2028x\u2029", "\x85", "\ufeff", "\u202eabc", "\x1b[2J", "\t", "\r\n", "e\u0301", "\U0001f642", "x" * 300),
    *(
        "-Infinity",
        "2024-01-01",
        "=",
        "",
        " ",
        "\u200b",
        "key: !!binary |\n  aGk=",
        "#",
        "&",
        "!",
        "%",
        "[a, b",
        "1:30",
    ),
    *("{a: b", "$(RANK)", ": "),
]
TEXT = st.one_of(
    st.sampled_from(MEAN),
    st.text("{}[]:,&*!|>'\"%@#-?\n\t\\ a1\u00e9\u2028", max_size=24),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=24),
)
"""Any text, most of it made of what means something to YAML or Jinja."""
_NAME = st.from_regex(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?", fullmatch=True)
_LABEL = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,60}[A-Za-z0-9])?)?", fullmatch=True)
_PREFIXED = st.from_regex(
    r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]{1,9})?/[A-Z]([-A-Za-z0-9_.]{0,20}[a-z])?", fullmatch=True
)
_KEY = _PREFIXED | st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
_QUANTITY = st.from_regex(r"[1-9][0-9]{0,2}(\.[0-9]{1,2})?(k|M|G|T|Ki|Mi|Gi|Ti)?", fullmatch=True)
_PATH = TEXT.filter(lambda text: text and not text.startswith("/") and ".." not in text.split("/"))
_VARIABLE = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
_POSITIVE = st.floats(1e-9, 1.0)
_BIG = st.sampled_from([1, 2, 7, 64, 2**31, 2**63 - 1, 10**30])
_REFERENCE = st.fixed_dictionaries({"secret": _NAME, "key": st.text("-._aZ9", min_size=1, max_size=253)})
_ENV = st.dictionaries(_VARIABLE, TEXT | _REFERENCE, max_size=3)

GOOD: dict[str, st.SearchStrategy[Any]] = {
    "config name": _NAME,
    "config train.model": st.fixed_dictionaries({"path": _PATH})
    | st.fixed_dictionaries({"hub": st.fixed_dictionaries({"id": TEXT.filter(bool), "revision": TEXT.filter(bool)})}),
    "config train.data.path": _PATH,
    "config train.data.validation.path": _PATH,
    "config train.data.prompt.task": TEXT,
    "config train.data.prompt.instruction": TEXT,
    "config train.data.sample": st.fixed_dictionaries({"max": _BIG, "seed": st.integers(-(10**20), 10**20)}),
    "config train.data.max_length": st.integers(32, 2**20),
    "config train.lora.rank": st.integers(1, 1024),
    "config train.lora.init_adapter": _PATH,
    "config train.lora.targets": st.sampled_from([["q_proj"], ["all-linear"], ["gate_proj", "up_proj"]]),
    "config train.optim.lr": _POSITIVE,
    "config train.optim.eps": _POSITIVE,
    "config train.optim.betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list),
    "config train.seed": st.integers(0, 2**63 - 1),
    "config train.revision": _BIG,
    "config train.epochs": st.integers(1, 10_000),
    "config train.max_steps": _BIG,
    "config train.global_batch_size": st.integers(6400, 10**6) | _BIG.filter(lambda size: size > 6400),
    "config train.precision": st.sampled_from(["bf16", "fp32"]),
    "config train.ops.wandb": st.fixed_dictionaries({"project": TEXT.filter(bool)}),
    "config train.ops.checkpoint.every": st.sampled_from(["1 s", "15 min", " 2h ", "100 steps", "0.5 h"]),
    "config train.ops.log_every": _BIG,
    "config cluster.nodes": st.integers(1, 100),
    "config cluster.gpus_per_node": st.integers(1, 64),
    "config cluster.priority": _NAME,
    "config cluster.max_hours": st.floats(1e-6, 8760),
    "config cluster.env": _ENV,
    "profile image": st.sampled_from([DIGEST, "a", "a/b:c", "localhost:5000/x@sha256:1", "a{{x}}", "a:b#c", "A'\"&*!"]),
    "profile pull_secrets": st.lists(_NAME, max_size=2),
    "profile volumes.models": st.fixed_dictionaries({"claim": _NAME, "sub_path": st.none() | _PATH}),
    "profile volumes.data.claim": _NAME,
    "profile volumes.runs": st.fixed_dictionaries({"claim": _NAME, "sub_path": st.none() | _PATH}),
    "profile cpu": _QUANTITY | st.integers(1, 999),
    "profile memory": st.sampled_from(["33Gi", "1.5Ti", "999999M", "40000000000"]),
    "profile shm": st.sampled_from(["1Gi", "64M", "1000000"]),
    "profile gpu.resource": st.sampled_from(["nvidia.com/gpu", "amd.com/gpu"]) | _PREFIXED,
    "profile gpu.model": TEXT,
    "profile rdma": st.dictionaries(_PREFIXED, st.sampled_from([1, 8, 2**31, 10**30]), max_size=2),
    "profile env": _ENV,
    "profile run_as": st.none() | st.fixed_dictionaries({"uid": _BIG, "gid": _BIG, "fs_group": _BIG}),
    "profile grace_seconds": st.integers(60, 86_400),
    "profile queue": st.fixed_dictionaries({"kind": st.sampled_from(["kueue", "volcano"]), "name": _NAME}),
    "profile node_selector": st.dictionaries(_KEY, _LABEL, max_size=2),
    "profile tolerations": st.lists(
        st.fixed_dictionaries(
            {"key": _KEY},
            optional={"value": _LABEL, "effect": st.sampled_from(["NoSchedule", "NoExecute", None])},
        ),
        max_size=2,
    ),
    "profile pod_patch": st.sampled_from([{}, {"dnsPolicy": "ClusterFirst"}, {"tolerations": None}])
    | TEXT.map(lambda text: {"containers": [{"name": "pytorch", "env": [{"name": "PATCHED", "value": text}]}]}),
}
"""Field -> values that may be right: with what else is written, and as far as a test's author can tell."""

WRONG = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(10**40), 10**40), st.floats(), TEXT, st.lists(TEXT, max_size=2)),
    *(st.dictionaries(TEXT, TEXT, max_size=2), st.just([[[{}]]]), st.just({"a": {"b": [None, 1e308]}})),
)
_ODD = [
    "config",
    "config train",
    "config zz",
    "config train.{{ x }}",
    "config cluster.env.RANK",
    "profile",
    "profile a\nb",
]
"""Places that are no field."""

_CONFIG: dict[str, Any] = {
    "name": "fuzzed",
    "train": {
        "model": {"path": "m"},
        "data": {"path": "d.json", "format": "chameleons"},
        "lora": {"rank": 4},
        "optim": {"lr": 1e-3},
        "global_batch_size": 6400,
    },
    "cluster": {"profile": "fuzzed"},
}
_PROFILE: dict[str, Any] = {
    "image": DIGEST,
    "volumes": {name: {"claim": name} for name in ("models", "data", "runs")},
    "gpu": {},
}

Change = tuple[str, Any]


@dataclass(frozen=True)
class Files:
    """The text of a config and of the profile that it names."""

    config: str
    profile: str

    def write(self, folder: Path) -> Path:
        """Below `folder`; the config's path."""
        (folder / "clusters").mkdir(exist_ok=True)
        (folder / "clusters" / "fuzzed.yaml").write_bytes(self.profile.encode("utf-8", "surrogatepass"))
        (folder / "fuzzed.yaml").write_bytes(self.config.encode("utf-8", "surrogatepass"))
        return folder / "fuzzed.yaml"


def _changed(changes: list[Change]) -> tuple[dict[str, Any], dict[str, Any]]:
    whole: dict[str, Any] = copy.deepcopy({"config": _CONFIG, "profile": _PROFILE})
    for place, value in changes:
        which, _, path = place.partition(" ")
        keys = [which, *path.split(".")] if path else [which]
        inside = whole
        for key in keys[:-1]:
            if not isinstance(inside.get(key), dict):
                inside[key] = {}
            inside = inside[key]
        inside[keys[-1]] = copy.deepcopy(value)
    return whole["config"], whole["profile"]


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False)


def _broken(text: str, at: float, piece: str) -> str:
    place = int(at * len(text))
    return text[:place] + piece + text[place:]


_SOUND = st.sampled_from(sorted(GOOD)).flatmap(lambda place: st.tuples(st.just(place), GOOD[place]))
_SPOILT = st.tuples(st.sampled_from([*sorted(GOOD), *_ODD]), WRONG)
_FORMAT = st.sampled_from([_as_json, _as_yaml])


@st.composite
def files(draw: st.DrawFn, spoilt: bool = True) -> Files:
    """A pair of files; `spoilt`: one in three has something that is wrong, or breaks the text itself."""
    changes = draw(st.lists(_SOUND, max_size=6))
    how = draw(st.integers(0, 8)) if spoilt else 0
    if how in (1, 2):
        changes += draw(st.lists(_SPOILT, min_size=1, max_size=2))
    write = draw(_FORMAT)
    config, profile = map(write, _changed(changes))
    if how == 3:
        config = _broken(config, draw(st.floats(0, 1)), draw(TEXT | st.sampled_from(["\ud800", "\x00", "\ufffe"])))
    return Files(config, profile)
