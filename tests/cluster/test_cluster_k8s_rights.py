"""Each verb with exactly the rights of its row in k8s/README.md, and without each one of them; roles are their sums.

Everybody here has a token of a ServiceAccount of their own, with a Role of its own: nothing waits for rights to change.
"""

import itertools
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import GIVEN
from tests.cluster.jobs import job, pod
from tests.cluster.kubelet import Log, serving
from tests.cluster.played_node import Machinery, runs_volume
from tests.cluster.shell import Shell
from tests.cluster.verbs_with_rights import LINE, SCENES, SHOWN, WAITS, Outcome, Person, warning

pytestmark = [
    pytest.mark.skipif(bool(GIVEN), reason="registers a node that only this machine can reach"),
    pytest.mark.timeout(900),  # the scenes are played before the first test
]
K8S = Path(__file__).parents[2] / "k8s"
QUEUE = "kueue.x-k8s.io/queue-name"

Right = tuple[str, str]
"""A verb of the API and a resource: ("get", "pods/log")."""
Case = tuple[str, Right | None]
"""A verb of kctl, and the right of its row that is taken away."""


def _table() -> tuple[dict[str, frozenset[Right]], frozenset[str]]:
    """The rights of each verb by k8s/README.md, and the verbs that kctl-ci may do."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (K8S / "README.md").read_text().splitlines()
        if line.startswith("|") and line.count("|") == 9
    ]
    head, _, *verbs = rows
    resources = head[1:-1]
    cells = {row[0]: zip(resources, row[1:-1], strict=True) for row in verbs}
    rights = {name: frozenset((verb, one) for one, cell in row for verb in cell.split()) for name, row in cells.items()}
    return rights, frozenset(row[0] for row in verbs if row[-1] == "yes")


RIGHTS, OF_CI = _table()
CASES: list[Case] = [(verb, gone) for verb, row in RIGHTS.items() for gone in (None, *sorted(row))]


def _rules(rights: frozenset[Right]) -> list[dict[str, Any]]:
    return [
        {"apiGroups": ["kubeflow.org" if resource == "pytorchjobs" else ""], "resources": [resource], "verbs": [verb]}
        for verb, resource in sorted(rights)
    ]


def _granted(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of rules; a rule for names or other things than resources is no such thing."""
    assert not any(rule.get("resourceNames") or rule.get("nonResourceURLs") for rule in rules)
    products = (itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"]) for rule in rules)
    return set(itertools.chain.from_iterable(products))


def _account(name: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
    ]


def _person(shell: Shell, account: str, folder: Path) -> Person:
    """Who has the token of a ServiceAccount."""
    config = json.loads(shell.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": shell.kubectl("create", "token", account).strip()}
    home = folder / account
    home.mkdir()
    (home / "kubeconfig").write_text(json.dumps(config))
    return Person(replace(shell, kubeconfig=str(home / "kubeconfig")), home, shell)


@pytest.fixture(scope="module")
def outcomes(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, Outcome]]:
    """How each verb went with its row, and with its row but for one right. All scenes are set first, then played."""
    folder = tmp_path_factory.mktemp("people")
    shell.kubectl("label", "namespace", shell.namespace, "pod-security.kubernetes.io/enforce=restricted")
    names = {case: f"case-{number}" for number, case in enumerate(CASES)}
    accounts = [one for case, name in names.items() for one in _account(name, _rules(RIGHTS[case[0]] - {case[1]}))]
    shell.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(accounts))
    with serving(folder) as kubelet, runs_volume(folder / "run") as kubelet.ports[8479]:
        machinery = Machinery(shell, kubelet)
        try:
            looked_at = pod(f"{SHOWN}-master-0", SHOWN, node=machinery.node)
            # Nobody tells the cluster that the played node is well: it would move the pod away.
            looked_at["spec"]["tolerations"] = [{"operator": "Exists"}]
            for made in (job(SHOWN), looked_at, job(WAITS)):
                answer = shell.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(made))
            shell.kubectl("create", "-f", "-", stdin=json.dumps(warning(json.loads(answer))))
            kubelet.logs[f"{SHOWN}-master-0"] = Log([(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), LINE)])
            machinery.runs(f"{SHOWN}-master-0", "pytorch")
            shell.set_conditions(SHOWN, "Created", "Running")

            def played(case: Case) -> Outcome:
                person = _person(shell, names[case], folder)
                scene = SCENES[case[0]]
                with scene.alone:
                    return scene.act(person, scene.prepare(shell, CASES.index(case)))

            with ThreadPoolExecutor(max_workers=8) as pool:
                yield dict(zip(CASES, pool.map(played, CASES), strict=True))
        finally:
            machinery.stop()


@pytest.mark.parametrize("verb", RIGHTS)
def test_a_verb_works_with_the_rights_of_its_row(outcomes: dict[Case, Outcome], verb: str) -> None:
    worked, said = outcomes[verb, None]
    assert worked, said


@pytest.mark.parametrize(
    ("verb", "gone"),
    [case for case in CASES if case[1]],
    ids=lambda one: "-".join(one) if isinstance(one, tuple) else one,
)
def test_a_verb_needs_each_right_of_its_row(
    shell: Shell, outcomes: dict[Case, Outcome], verb: str, gone: Right
) -> None:
    worked, said = outcomes[verb, gone]
    server = json.loads(shell.kubectl("version", "-o", "json"))["serverVersion"]
    if gone == ("create", "pods/portforward") and int(server["minor"].rstrip("+")) < 35:
        assert worked, "nobody asks for it before Kubernetes 1.35"
        return
    assert not worked
    of_log = gone in (("get", "pods"), ("get", "pods/log"))
    if gone == ("list", "events") or (of_log and verb in ("status", "explain", "list")):
        return  # it shows all but the warning, or the progress, which is in the log, and says nothing
    assert re.search(rf"no right to {gone[0]} {gone[1]}|cannot {gone[0]} resource \"{gone[1]}\"", said), said


def test_the_roles_are_the_sums_of_the_rows(shell: Shell) -> None:
    objects = yaml.safe_load_all(shell.kubectl("kustomize", str(K8S / "base" / "team")))
    roles = {one["metadata"]["name"]: _granted(one["rules"]) for one in objects if one["kind"] == "Role"}
    assert set(roles) == {"kctl-user", "kctl-ci"}
    assert roles["kctl-user"] == _granted(_rules(frozenset().union(*RIGHTS.values())))
    assert roles["kctl-ci"] == _granted(_rules(frozenset().union(*(RIGHTS[verb] for verb in OF_CI))))
    assert set(SCENES) == set(RIGHTS)


@pytest.fixture(scope="module")
def team(shell: Shell) -> None:
    """The shipped accounts, roles and bindings, in the module's namespace."""
    text = shell.kubectl("kustomize", str(K8S / "base" / "team"))
    objects = [one for one in yaml.safe_load_all(text) if one["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    for one in objects:
        one["metadata"]["namespace"] = shell.namespace
        for subject in one.get("subjects", ()):
            if "namespace" in subject:
                subject["namespace"] = shell.namespace
    shell.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))


def _effective(shell: Shell, *who: str) -> set[tuple[str, str, str]]:
    """What the API server says that somebody may do in the namespace, but for what everybody may."""

    def asked(*as_whom: str) -> set[tuple[str, str, str]]:
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
        text = json.dumps(review | {"spec": {"namespace": shell.namespace}})
        answer = json.loads(shell.kubectl("create", "-o", "json", "--validate=false", "-f", "-", *as_whom, stdin=text))
        assert not answer["status"]["incomplete"]
        return _granted(answer["status"]["resourceRules"])

    return asked(*who) - asked("--as=nobody", "--as-group=system:authenticated")


def test_nothing_more_is_granted(shell: Shell, team: None) -> None:
    """By all bindings of the namespace together, to a person, to the pipeline, and to the account of pods: none."""
    authenticated = "--as-group=system:authenticated"
    person = _effective(shell, "--as=anna", "--as-group=kctl-users", authenticated)
    assert person == _granted(_rules(frozenset().union(*RIGHTS.values())))
    account = f"--as=system:serviceaccount:{shell.namespace}:"
    groups = (
        f"--as-group=system:serviceaccounts:{shell.namespace}",
        "--as-group=system:serviceaccounts",
        authenticated,
    )
    pipeline = _effective(shell, f"{account}kctl-ci", *groups)
    assert pipeline == _granted(_rules(frozenset().union(*(RIGHTS[verb] for verb in OF_CI))))
    assert _effective(shell, f"{account}default", *groups) == set()


def test_a_pipeline_submits_and_does_not_cancel(shell: Shell, team: None, tmp_path: Path) -> None:
    pipeline = _person(shell, "kctl-ci", tmp_path)
    submitted = pipeline.kctl("submit", "demo", "-o", "name")
    assert submitted.returncode == 0, submitted.stderr
    cancelled = pipeline.kctl("cancel", submitted.stdout.strip().rpartition("/")[2])
    assert cancelled.returncode == 6 and "kctl-ci has no right to patch pytorchjobs" in cancelled.stderr


@pytest.mark.parametrize("gone", [None, "list", "patch"])
def test_cancel_with_kueue_needs_what_the_overlay_grants(
    shell: Shell, kueue: list[dict[str, Any]], tmp_path: Path, gone: str | None
) -> None:
    (rule,) = kueue
    account, run = f"kueue-{gone or 'all'}", f"queued-{'all' if gone is None else gone}-11111111"
    rules = [*_rules(RIGHTS["cancel"]), rule | {"verbs": [verb for verb in rule["verbs"] if verb != gone]}]
    shell.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(_account(account, rules)))
    made = shell.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(job(run, **{QUEUE: "gpu"})))
    labels = {"kueue.x-k8s.io/job-uid": json.loads(made)["metadata"]["uid"]}
    workload = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": {"name": run, "labels": labels}}
    shell.kubectl("create", "-f", "-", stdin=json.dumps(workload | {"spec": {"active": True}}))
    worked, said = SCENES["cancel"].act(_person(shell, account, tmp_path), run)
    active = shell.kubectl("get", "workload", run, "-o", "jsonpath={.spec.active}")
    assert (worked, active) == ((True, "false") if gone is None else (False, "true"))
    assert gone is None or f"no right to {gone} workloads.kueue.x-k8s.io" in said


@pytest.fixture(scope="module")
def kueue(shell: Shell) -> Iterator[list[dict[str, Any]]]:
    """Kueue's Workload as far as kctl touches it, and the rules of the overlay's role."""
    shell.kubectl("apply", "-f", str(Path(__file__).with_name("kueue_workload_crd.yaml")))
    shell.kubectl("wait", "--for=condition=Established", "crd/workloads.kueue.x-k8s.io", "--timeout=30s")
    objects = yaml.safe_load_all(shell.kubectl("kustomize", str(K8S / "overlays" / "kueue")))
    yield next(one["rules"] for one in objects if one["kind"] == "Role")
    shell.kubectl("delete", "crd", "workloads.kueue.x-k8s.io")
