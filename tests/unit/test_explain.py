"""From what is known of a run to why it is so: each cause on its example, and what holds for all of them."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.backends.facts import Facts
from kctl.backends.run_view import run_view
from kctl.explain.cause import Found
from kctl.explain.table import CAUSES, GENERAL
from kctl.explain.table import explained as explained_for
from tests.unit.explain_examples import EXAMPLES, RUNNING, SAID
from tests.unit.explain_sources import MADE, READ, WAITING
from tests.unit.explain_world import (
    NOW,
    POD,
    RUN,
    STEP,
    event,
    job,
    kubelet,
    node,
    pod,
    refused,
    running,
    unplaced,
    waits,
)
from trainer.schema.contract import ExitCode, Phase
from trainer.schema.redaction import redacted

STATUSES = Path(__file__).parents[1] / "cluster" / "statuses"
RESUME = "kctl submit demo -n team (resumes)"
NAMES = list(dict.fromkeys(cause.name for causes in CAUSES.values() for cause in causes))


def explained(facts: Facts) -> tuple[Found, ...]:
    return explained_for(facts, " -n team", RESUME)


def test_every_cause_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(NAMES) and len(set(NAMES)) == len(NAMES) >= 40
    for general, special in GENERAL.items():
        assert {general, *special} <= set(NAMES), "a name that no cause has"


def test_every_cause_was_met_or_read_somewhere() -> None:
    met = [*WAITING, *(name for names in (*MADE.values(), *READ.values()) for name in names)]
    assert sorted(met) == sorted(NAMES)
    assert len(WAITING) + sum(map(len, MADE.values())) >= 25
    made = {path: (Path(__file__).parents[2] / path).read_text() for path in MADE}
    for path, names in MADE.items():
        assert all(f'"{name}"' in made[path] for name in names), path


@pytest.mark.parametrize("name", NAMES)
def test_a_cause_is_the_first_that_its_example_shows(name: str) -> None:
    facts = EXAMPLES[name]
    first, *_ = explained(facts)
    assert first.name == name, explained(facts)
    for text in (first.sentence, first.next, *first.evidence):
        assert text and "\n" not in text and "{}" not in text and "  " not in text.strip()
    assert not first.sentence.endswith(".") and "None" not in first.sentence
    for command in re.findall(r"kctl (\w+)", first.next):
        assert command in ("submit", "cancel", "delete", "logs", "list", "wait", "pull", "prune", "push", "validate")
    if re.search(r"kctl (logs|list|wait|pull|prune|push|submit \S+ )", first.next):
        assert " -n team" in first.next, "a next command means the same place"


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_contradict_status(name: str) -> None:
    """`kctl status` has the same phase and code of the same objects, and trouble is not called health."""
    facts = EXAMPLES[name]
    shown, names = run_view(facts.job, facts.pods), [one.name for one in explained(facts)]
    assert (facts.view.phase, facts.view.code) == (shown.phase, shown.code)
    assert ("training" in names) <= (shown.phase is Phase.RUNNING)
    assert ("succeeded" in names) == (shown.phase is Phase.SUCCEEDED)
    if name in SAID and shown.sentence and shown.code in list(ExitCode) and name != "time-limit":
        said = [*explained(facts)[0].evidence, explained(facts)[0].sentence]
        assert any(shown.sentence in one for one in said), "the run's own words"


@pytest.mark.parametrize("state", sorted(path.stem for path in STATUSES.glob("*.json")))
def test_what_the_operator_really_wrote_is_explained(state: str) -> None:
    recorded = json.loads((STATUSES / f"{state}.json").read_text())
    recorded["metadata"]["creationTimestamp"] = "2026-11-25T12:00:00Z"
    names = [one.name for one in explained(Facts(NOW, recorded))]
    expected = {"none": "operator-silent", "failed": "failed", "succeeded": "succeeded", "suspended": "suspended"}
    if state.partition("-")[0] in expected:
        assert names[:1] == [expected[state.partition("-")[0]]]


def test_every_exit_code_is_explained_in_words_of_its_own() -> None:
    for code in ExitCode:
        if code is not ExitCode.SUCCEEDED:
            over = {"terminated": {"exitCode": int(code), "reason": "Error"}}
            facts = Facts(NOW, job("Created", "Failed"), (pod("Failed", over),))
            assert explained(facts)[0].name not in ("ended", "failed"), code


def test_what_a_local_run_can_show_needs_no_kubectl() -> None:
    for name in (*SAID, *RUNNING, "cancelled", "pods-left"):
        assert "kubectl" not in explained(EXAMPLES[name])[0].next, name


# ----------------------------------------------------------------------------------------------------------------------
# what is over is no cause


def test_a_refusal_counts_while_pods_are_missing_and_while_it_is_fresh() -> None:
    facts = refused("no PriorityClass with name high was found")
    assert explained(facts)[0].name == "priority-class"
    made = Facts(NOW, facts.job, (pod(state={"waiting": {"reason": "ContainerCreating"}}),), facts.events)
    assert [one.name for one in explained(made)] == ["starting"]
    old = event("FailedCreatePod", "no PriorityClass with name high was found", "PyTorchJob", RUN, age=3600)
    assert explained(Facts(NOW, job("Created"), events=(old,))) == ()


def test_an_operator_whose_pods_are_refused_is_not_silent() -> None:
    """It writes no condition before the first pod is there (seen on a real cluster)."""
    facts = refused("no PriorityClass with name high was found")
    assert [one.name for one in explained(Facts(NOW, job(), events=facts.events))] == ["priority-class"]


def test_a_kubelets_old_complaint_is_over() -> None:
    assert [one.name for one in explained(kubelet("FailedMount", "timed out", age=3600))] == ["starting"]


def test_a_line_of_the_log_counts_until_the_next_step() -> None:
    assert explained(running("the attempt before failed: waiting 20 s", STEP))[0].name == "training"
    assert explained(running(STEP, "the attempt before failed: waiting 20 s"))[0].name == "waits-after-failure"


def test_a_queue_that_may_not_be_looked_at_is_not_called_silent() -> None:
    hidden = Facts(NOW, EXAMPLES["queue-silent"].job, workloads=None, unseen=("workloads: no right to list",))
    assert [one.name for one in explained(hidden)] == ["queued"]


@pytest.mark.parametrize("status", [None, {}])
def test_an_object_with_next_to_nothing_is_borne(status: dict[str, Any] | None) -> None:
    one, bare = ({"metadata": {"name": name}, "spec": {}, "status": status} for name in (RUN, POD))
    seen = Facts(NOW, one, (bare,), claims=(), nodes=(), workloads=())
    for facts in (Facts(NOW, one), Facts(NOW, one, (bare,)), seen):
        assert all(found.sentence for found in explained(facts))


def test_several_causes_are_all_told_and_the_general_one_is_not() -> None:
    both = unplaced("0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable.")
    assert [one.name for one in explained(both)] == ["resource-short", "nodes-cordoned"]


TEAM = {"key": "team", "value": "vision", "effect": "NoSchedule"}
AWAY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
ALL_AT_ONCE = (
    "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint "
    "{node.kubernetes.io/not-ready: }, 1 node(s) had untolerated taint {team: vision}, 1 node(s) were unschedulable."
)

NAMELESS = (
    "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable, "
    "2 node(s) had untolerated taint(s). no new claims to deallocate, preemption: 0/4 nodes are available."
)
"""As Kubernetes 1.34 says it."""


@pytest.mark.parametrize("said", [ALL_AT_ONCE, NAMELESS])
@pytest.mark.parametrize(
    ("wanted", "causes"),
    [
        ("tainted", ["taint"]),
        ("away", ["nodes-not-ready"]),
        ("cordoned", ["nodes-cordoned"]),
        ("nowhere", ["selector"]),
        ("well", ["unplaced"]),
        (None, ["taint", "nodes-cordoned", "nodes-not-ready"]),
    ],
)
def test_of_many_nodes_those_count_that_the_run_may_go_to(said: str, wanted: str | None, causes: list[str]) -> None:
    """The scheduler says one reason a node, and of a tainted one never that it has other labels, too."""
    nodes = (
        node("well"),
        node("tainted", spec={"taints": [TEAM]}),
        node("away", spec={"taints": [AWAY]}),
        node("cordoned", spec={"unschedulable": True}),
    )
    selector = {"nodeSelector": {"name": wanted}} if wanted else {}
    facts = unplaced(said, job=job("Created", pod=selector), nodes=nodes)
    assert [one.name for one in explained(facts)] == causes
    if wanted == "tainted":
        assert "node tainted: team=vision" in explained(facts)[0].evidence and "{key: team," in explained(facts)[0].next


def test_without_a_look_at_nodes_a_selector_is_named_where_nothing_else_is() -> None:
    assert [one.name for one in explained(unplaced(ALL_AT_ONCE))] == ["taint", "nodes-cordoned", "nodes-not-ready"]
    plain = (
        "0/5 nodes are available: 3 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 node(s) "
    )
    assert explained(unplaced(plain + "didn't match Pod's node affinity/selector."))[0].name == "selector"
    assert [one.name for one in explained(unplaced(NAMELESS))] == ["nodes-cordoned"]


def test_the_second_resource_that_is_short_is_named() -> None:
    text = "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient nvidia.com/gpu."
    found = explained(unplaced(text, nodes=(node(cpu="64"),)))
    assert {one.name: one.sentence.split(":")[0] for one in found} == {
        "resource-nowhere": "no node offers nvidia.com/gpu",
        "resource-busy": "other pods use the cpu",
    }


# ----------------------------------------------------------------------------------------------------------------------
# words of others


SECRETS = ("hf_abcdefghijklmnopqrstuv", "ghp_abcdefghijklmnopqrst", "AKIAABCDEFGHIJKLMNOP", "correct-horse-battery")


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_of_an_event_or_a_log_is_repeated(secret: str) -> None:
    for facts in (
        waits("CreateContainerConfigError", f"env HUB_TOKEN={secret} is refused"),
        refused(f"the pod has PASSWORD: {secret}"),
        running(f"login with token={secret}"),
        unplaced(f"0/1 nodes: https://user:{secret}@registry.example.com, api_key={secret}"),
    ):
        for one in explained(facts):
            assert secret not in " ".join((one.sentence, one.next, *one.evidence))


def test_what_is_no_secret_stays() -> None:
    for text in (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu",
        "step=100/1000 loss=1.2345 tokens_per_s=5210",
    ):
        assert redacted(text) == text


@pytest.mark.parametrize("word", ["x", "rank 1: ", ": skipped, ", "Insufficient a.b ", "KEY=aaaaaaaa ", "-----BEGIN "])
def test_long_lines_take_no_time(word: str) -> None:
    started, long = time.process_time(), word * (16_384 // len(word))
    for facts in (running(*[long] * 200), waits("ErrImagePull", long), unplaced(long), refused(long)):
        explained(facts)
    assert time.process_time() - started < 1.0


@given(words=st.text(max_size=200), reason=st.text(max_size=30))
def test_any_words_are_borne(words: str, reason: str) -> None:
    """Braces, control characters and nonsense of a cluster end up in one line, or nowhere."""
    shapes: list[Facts] = [waits(reason, words), unplaced(words, reason), running(words), kubelet(reason, words)]
    shapes.append(Facts(NOW, job("Created"), events=(event(reason, words, "PyTorchJob", RUN),)))
    for facts in shapes:
        for one in explained(facts):
            told: list[Any] = [one.sentence, one.next, *one.evidence]
            assert all(isinstance(text, str) for text in told)
