"""kctl's verbs as a person runs them, against the real API server; the operator's part, a job's status, is played."""

import json
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from tests.cluster.shell import Shell

KCTL = str(Path(sys.executable).with_name("kctl"))


@pytest.fixture()
def run(shell: Shell, request: pytest.FixtureRequest) -> str:
    """A fresh run, submitted: its seed comes from the test's name, so no other test has it."""
    done = shell.kctl("submit", *_config(request), "-n", shell.namespace, "-o", "name")
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip().rpartition("/")[2]
    shell.play_operator(name)
    return name


def _config(request: pytest.FixtureRequest) -> list[str]:
    return ["demo", "--set", f"train.seed={zlib.crc32(request.node.nodeid.encode())}"]


def _kctl(shell: Shell, code: int, *arguments: str, timeout: float = 60) -> tuple[str, str]:
    done = shell.kctl(*arguments, "-n", shell.namespace, timeout=timeout)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}, not {code}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def _uid(shell: Shell, run: str) -> str:
    return shell.kubectl("get", "pytorchjob", run, "-o", "jsonpath={.metadata.uid}")


def test_submitting_an_active_run_again_says_so(shell: Shell, run: str, request: pytest.FixtureRequest) -> None:
    before = shell.kubectl("get", "pytorchjob", run, "-o", "json")
    _, said = _kctl(shell, 0, "submit", *_config(request))
    assert run in said and "already active" in said
    assert shell.kubectl("get", "pytorchjob", run, "-o", "json") == before


def test_another_manifest_of_an_active_run_is_refused(shell: Shell, run: str, request: pytest.FixtureRequest) -> None:
    before = shell.kubectl("get", "pytorchjob", run, "-o", "json")
    _, said = _kctl(shell, 6, "submit", *_config(request), "--set", "cluster.max_hours=3")
    assert f"kctl cancel {run} -n {shell.namespace}" in said
    assert shell.kubectl("get", "pytorchjob", run, "-o", "json") == before


@pytest.mark.parametrize("more", [(), ("--set", "cluster.max_hours=3")])
def test_a_succeeded_run_is_never_created_again(
    shell: Shell, run: str, request: pytest.FixtureRequest, more: tuple[str, ...]
) -> None:
    shell.set_conditions(run, "Created", "Succeeded")
    before = shell.kubectl("get", "pytorchjob", run, "-o", "json")
    _, said = _kctl(shell, 0, "submit", *_config(request), *more)
    assert f"kctl pull {run} -n {shell.namespace}" in said
    assert shell.kubectl("get", "pytorchjob", run, "-o", "json") == before


@pytest.mark.parametrize("more", [(), ("--set", "cluster.max_hours=3")])
@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_an_ended_run_is_deleted_and_created(
    shell: Shell, run: str, request: pytest.FixtureRequest, end: str, more: tuple[str, ...]
) -> None:
    before = _uid(shell, run)
    if end == "failed":
        shell.set_conditions(run, "Created", "Failed", message="pod failed with exit code 3")
    else:
        _kctl(shell, 0, "cancel", run)
    stdout, said = _kctl(shell, 0, "submit", *_config(request), *more)
    assert "resumes" in said and f"{run} created" in stdout
    assert _uid(shell, run) != before
    assert shell.kubectl("get", "pytorchjob", run, "-o", "jsonpath={.spec.runPolicy.suspend}") == "false"


def test_status_and_list_follow_the_conditions(shell: Shell, run: str) -> None:
    def phase() -> str:
        return str(json.loads(_kctl(shell, 0, "status", run, "-o", "json")[0])["phase"])

    assert phase() == "Pending"
    for condition, expected in (("Restarting", "Restarting"), ("Failed", "Failed"), ("Succeeded", "Succeeded")):
        shell.set_conditions(run, "Created", condition, message="said the operator")
        assert phase() == expected
        listed = {one["run"]: one["phase"] for one in json.loads(_kctl(shell, 0, "list", "-o", "json")[0])}
        assert listed[run] == expected
    assert run in _kctl(shell, 0, "list")[0]
    assert f"kctl pull {run}" in _kctl(shell, 0, "status", run)[0]


def test_wait(shell: Shell, run: str) -> None:
    _, said = _kctl(shell, 7, "wait", run, "--timeout", "2s")
    assert "it goes on" in said
    waiting = subprocess.Popen(
        [KCTL, "wait", run, "-n", shell.namespace], env=shell.environment, stderr=subprocess.PIPE, text=True
    )
    time.sleep(2)
    shell.set_conditions(run, "Created", "Succeeded")
    _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 0 and f"kctl pull {run}" in said
    shell.set_conditions(run, "Created", "Failed", message="pod failed with exit code 3")
    _, said = _kctl(shell, 3, "wait", run)
    assert "exit code 3" in said and said[-1] == "\n" and said.count("\n") == 1


def test_wait_for_a_run_that_is_deleted_meanwhile(shell: Shell, run: str) -> None:
    waiting = subprocess.Popen(
        [KCTL, "wait", run, "-n", shell.namespace], env=shell.environment, stderr=subprocess.PIPE, text=True
    )
    time.sleep(2)
    shell.kubectl("delete", "pytorchjob", run)
    _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 4 and run in said


def test_a_run_applied_from_git_is_found_like_a_submitted_one(shell: Shell, request: pytest.FixtureRequest) -> None:
    rendered = shell.kctl("render", *_config(request), "-n", shell.namespace)
    shell.kubectl("apply", "-f", "-", stdin=rendered.stdout)
    names = [line for line in rendered.stdout.splitlines() if line.startswith("  name: ")]
    run = names[-1].removeprefix("  name: ").strip('"')
    assert run in _kctl(shell, 0, "list", "-o", "name")[0]
    assert run in _kctl(shell, 0, "status", run)[0]
    assert "already active" in _kctl(shell, 0, "submit", *_config(request))[1]


def test_a_server_dry_run_creates_nothing(shell: Shell, request: pytest.FixtureRequest) -> None:
    stdout, _ = _kctl(shell, 0, "submit", *_config(request), "--dry-run=server", "-o", "name")
    assert shell.kubectl("get", stdout.strip(), "--ignore-not-found") == ""


def test_exit_codes(shell: Shell, tmp_path: Path) -> None:
    _, said = _kctl(shell, 4, "status", "nobody-00000000")
    assert "kctl list" in said
    _, said = _kctl(shell, 2, "list", "--context", "prod")
    assert "no context 'prod'" in said
    done = shell.kctl("submit", "demo", "-n", "kctl-test-nowhere")
    assert done.returncode == 4 and "no namespace kctl-test-nowhere" in done.stderr
    offline = tmp_path / "kubeconfig"
    offline.write_text(
        json.dumps(
            {
                "clusters": [{"name": "off", "cluster": {"server": "https://127.0.0.1:9"}}],
                "contexts": [{"name": "off", "context": {"cluster": "off", "user": "me"}}],
                "users": [{"name": "me", "user": {"token": "x"}}],
                "current-context": "off",
            }
        )
    )
    started = time.monotonic()
    done = shell.kctl("list", "-n", shell.namespace, env={"KUBECONFIG": str(offline)})
    assert done.returncode == 5 and "connection refused" in done.stderr
    assert time.monotonic() - started < 10
    done = shell.kctl("list", env={"KUBECONFIG": str(tmp_path / "none")})
    assert done.returncode == 2 and "no kubeconfig" in done.stderr


def test_a_user_without_rights(shell: Shell, tmp_path: Path) -> None:
    shell.kubectl("create", "serviceaccount", "nobody")
    raw = json.loads(shell.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    raw["users"][0]["user"] = {"token": shell.kubectl("create", "token", "nobody").strip()}
    (tmp_path / "kubeconfig").write_text(json.dumps(raw))
    done = shell.kctl("submit", "demo", "-n", shell.namespace, env={"KUBECONFIG": str(tmp_path / "kubeconfig")})
    assert done.returncode == 6
    assert f"nobody has no right to get pytorchjobs.kubeflow.org in namespace {shell.namespace}" in done.stderr
    assert "auth can-i get pytorchjobs.kubeflow.org" in done.stderr
