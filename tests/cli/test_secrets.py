"""50 planted credentials, in configs, on command lines, in what a cluster says, in logs and in our environment: none is
printed, rendered or written. The table itself: tests/unit/test_redaction.py."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kctl import console
from kctl.backends.local.backend import Local
from kctl.cli import run as kctl
from tests.cli import test_adapters as finished
from tests.cli.api_server import ApiServer, serving
from tests.cli.local_jobs import manifests, until
from tests.cli.ready_cluster import CONFIG, CORE, JOBS
from tests.planted_secrets import PLANTED, SHAPED, leaks
from tests.unit.explain_world import POD, RUN, event, job, pod
from trainer.schema.contract import LABEL_JOB_NAME
from trainer.schema.redaction import HIDDEN

ROOT = Path(__file__).parents[2]
WORDS = [words for words, _ in PLANTED.values()]
ALL = " ; ".join(WORDS)
FIELDS = ["name", "train.model.path", "train.data.path", "train.data.prompt.task", "train.ops.checkpoint.every"]
FIELDS += ["train.ops.wandb.project", "cluster.profile", "cluster.priority", "cluster.env.X", "zzz", "train.lora.rank"]
PROFILE_FIELDS = ["image", "context", "namespace", "volumes.runs.claim", "volumes.runs.sub_path", "env.X", "gpu.model"]
PROFILE_FIELDS += ["pull_secrets", "node_selector.x", "queue.name", "pod_patch.containers", "zzz"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a config and a profile of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    write(tmp_path, CONFIG, {})
    return tmp_path


def write(root: Path, config: dict[str, Any], profile: dict[str, Any]) -> None:
    (root / "configs" / "clusters").mkdir(parents=True, exist_ok=True)
    (root / "configs" / "tiny.yaml").write_text(json.dumps(config))
    (root / "configs" / "clusters" / "default.yaml").write_text(json.dumps({"extends": shipped(), **profile}))


def shipped() -> str:
    return str(ROOT / "configs" / "clusters" / "default.yaml")


def planted(value: dict[str, Any], path: str, secret: Any) -> dict[str, Any]:
    """`value` with `secret` at `path`."""
    made: dict[str, Any] = json.loads(json.dumps(value))
    *keys, last = path.split(".")
    inside = made
    for key in keys:
        inside = inside.setdefault(key, {})
    inside[last] = secret
    return made


def told(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """(exit code, all that was printed)."""
    code = kctl(list(argv))
    out, err = capfd.readouterr()
    return code, out + err


@pytest.mark.parametrize("field", FIELDS)
def test_a_config_with_one_is_refused_by_the_field_and_not_repeated(
    here: Path, capfd: pytest.CaptureFixture[str], field: str
) -> None:
    for kind, secret in SHAPED.items():
        write(here, planted(CONFIG, field, secret), {})
        code, said = told(capfd, "render", "tiny")
        assert code == 2 and leaks(said) == [], kind
        assert "apiVersion" not in said and said.count("\n") == 1
        if field in ("train.model.path", "train.ops.wandb.project"):
            assert f"tiny.yaml: {field}: holds what looks like a secret: take it out of the file" in said


@pytest.mark.parametrize("field", PROFILE_FIELDS)
def test_a_profile_with_one(here: Path, capfd: pytest.CaptureFixture[str], field: str) -> None:
    for secret in SHAPED.values():
        as_written: Any = [secret] if field == "pull_secrets" else secret
        if field == "pod_patch.containers":
            as_written = [{"name": "pytorch", "args": ["--x", secret]}]
        write(here, CONFIG, planted({}, field, as_written))
        code, said = told(capfd, "render", "tiny")
        assert code == 2 and leaks(said) == [] and "apiVersion" not in said


def test_what_is_only_called_one_is_refused_where_variables_and_commands_stand(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for words, secret in PLANTED.values():
        write(here, planted(CONFIG, "cluster.env.EXTRA", words), {})
        code, said = told(capfd, "render", "tiny")
        assert (code, secret in said) == (2, False) and "looks like a secret" in said
        patch = [{"name": "pytorch", "args": words.split(" ")}]
        write(here, CONFIG, planted({}, "pod_patch.containers", patch))
        code, said = told(capfd, "render", "tiny")
        assert (code, secret in said) == (2, False) and "pod_patch.containers.args: holds what looks" in said


@pytest.mark.parametrize(
    "argv",
    [
        ("validate", "tiny", "--set", "train.data.path={}"),
        ("plan", "tiny", "--set", "cluster.env.A={}"),
        ("submit", "tiny", "--dry-run", "client", "--set", "train.lora.rank={}"),
        ("submit", "tiny", "--dry-run", "client", "--matrix", "train.data.path=a,{}"),
        ("report", "{}", "--local"),
        ("init", "first", "--set", "train.model.path={}", "--set", "train.data.path=a.jsonl"),
        ("render", "tiny", "--{}"),
        ("{}",),
        ("status", "{}", "--local"),
        ("render", "{}", "--debug"),
    ],
    ids=lambda argv: " ".join(argv),
)
def test_a_command_line_with_one(here: Path, capfd: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    secret = next(iter(SHAPED.values()))
    code, said = told(capfd, *(word.format(secret) for word in argv))
    assert code and secret not in said
    written = [path for path in here.rglob("*") if path.is_file() and secret in path.read_text(errors="replace")]
    assert written == [] and not (here / "configs" / "first.yaml").exists()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_command_that_is_one_on_a_stderr_of_any_encoding(here: Path, encoding: str) -> None:
    """As a process: click writes past a stream of ASCII to its bytes where it can get them."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kctl", "ü password=hunter2hunter2"]
    done = subprocess.run(command, env=environment, capture_output=True, cwd=here)
    assert done.returncode == 2 and b"hunter2" not in done.stderr and HIDDEN.encode() in done.stderr


def test_lines_pass_the_guard_too() -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    guard = console.guarded(out)
    guard.writelines(["password=hunter2hunter2\n"])
    guard.flush()
    assert out.buffer.getvalue() == f"password={HIDDEN}\n".encode() and not hasattr(guard, "buffer")


@pytest.fixture
def server(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with serving() as made:
        monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(here / "kubeconfig")))
        yield made


def ask(capfd: pytest.CaptureFixture[str], *verbs: tuple[str, ...]) -> None:
    for argv in verbs:
        code, said = told(capfd, *argv)
        assert leaks(said) == [], argv
        assert "internal error" not in said and said, f"{argv}: {code}"


READING = [
    *(("status", RUN), ("status", RUN, "-o", "json"), ("status", RUN, "-o", "yaml"), ("list",), ("list", "-o", "json")),
    *(
        ("explain", RUN),
        ("explain", RUN, "-o", "json"),
        ("explain", RUN, "-o", "yaml"),
        ("logs", RUN),
        ("diff", "tiny"),
    ),
    *(("doctor",), ("doctor", "tiny", "-o", "json"), ("wait", RUN, "--timeout", "1s"), ("cancel", RUN)),
    *(("delete", RUN, "--yes"), ("report", RUN), ("pull", RUN)),
]


def test_what_a_cluster_says_of_a_run(server: ApiServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Conditions, waiting and termination messages, events and log lines, each with a share of the table."""
    for start in range(0, len(WORDS), 9):
        words = (WORDS + WORDS)[start : start + 9]
        waits = {"waiting": {"reason": words[0], "message": words[1]}}
        ended = {"terminated": {"exitCode": 3, "message": json.dumps({"code": 3, "sentence": words[2]})}}
        plain = {"terminated": {"exitCode": 1, "message": words[3]}}
        for state in (waits, ended, plain):
            one = job("Created", "Running")
            one["status"]["conditions"][0]["message"] = words[4]
            each = pod("Pending" if state is waits else "Failed", state)
            each["metadata"].setdefault("labels", {})[LABEL_JOB_NAME] = RUN
            events = [event("Failed", text, "Pod", POD) for text in words]
            server.answers |= {JOBS: [one], f"{JOBS}/{RUN}": one, f"{CORE}/pods": [each], f"{CORE}/events": events}
            server.answers[f"{CORE}/pods/{POD}"] = each
            lines = "".join(f"2026-01-01T00:00:0{place}.5Z {text}\n" for place, text in enumerate(words))
            server.answers[f"{CORE}/pods/{POD}/log"] = lines
            ask(capfd, ("status", RUN), ("explain", RUN), ("list", "-o", "json"))
            code, said = told(capfd, "logs", RUN)
            shown = len(words) if state is not waits else 0
            assert (code, leaks(said), said.count(HIDDEN) >= shown) == (0, [], True)
    ask(capfd, *READING[:12])
    done = job("Failed")
    done["status"]["conditions"][0]["message"] = ALL
    server.answers |= {JOBS: [done], f"{JOBS}/{RUN}": done}
    ask(capfd, ("status", RUN, "--watch"), ("status", RUN), ("explain", RUN))


@pytest.mark.parametrize("part", range(2))
def test_what_a_cluster_says_when_it_refuses(server: ApiServer, capfd: pytest.CaptureFixture[str], part: int) -> None:
    for place, words in list(enumerate(WORDS))[part::2]:
        for path in (f"{JOBS}/{RUN}", JOBS, f"{CORE}/pods", f"{CORE}/persistentvolumeclaims"):
            server.answers[path] = ((403, 400, 422, 409)[place % 4], words)
        ask(capfd, READING[place % len(READING)])


def test_a_live_job_with_some_in_it(server: ApiServer, capfd: pytest.CaptureFixture[str]) -> None:
    assert kctl(["render", "tiny", "-o", "json"]) == 0
    config_map, one = json.loads(capfd.readouterr().out)["items"]
    (replica,) = one["spec"]["pytorchReplicaSpecs"].values()
    container = replica["template"]["spec"]["containers"][0]
    for place, words in enumerate(SHAPED.values()):
        container["env"].append({"name": f"OTHER_{place}", "value": words})
        container.setdefault("args", []).append(words)
    config_map["data"]["config.json"] = json.dumps({"train": {"model": {"path": " ".join(SHAPED.values())}}})
    name = one["metadata"]["name"]
    server.answers |= {f"{JOBS}/{name}": one, JOBS: [one], f"{CORE}/pods": []}
    server.answers[f"{CORE}/configmaps/{config_map['metadata']['name']}"] = config_map
    ask(capfd, ("diff", "tiny"), ("diff", "tiny", "-o", "json"))


def test_a_kubeconfig_that_does_not_work(here: Path, capfd: pytest.CaptureFixture[str], server: ApiServer) -> None:
    good = json.loads((here / "kubeconfig").read_text())
    for words, secret in PLANTED.values():
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never"}
        plugin["args"] = ["-c", "cat >&2 <<'END'\n" + words + "\nEND\nexit 1"]
        for user in ({"exec": plugin}, {"client-key-data": secret, "client-certificate-data": words}):
            (here / "kubeconfig").write_text(json.dumps({**good, "users": [{"name": "u", "user": user}]}))
            assert leaks(told(capfd, "status", RUN)[1]) == []
    (here / "kubeconfig").write_text(f"users:\n- name: u\n  user: {{token: {WORDS[0]}\n  - : [")
    assert leaks(told(capfd, "status", RUN)[1]) == []


def test_a_local_run_whose_program_prints_them_and_an_environment_that_has_one(here: Path) -> None:
    """kctl as a process: what it has in its environment is taken out to the letter, whatever it looks like."""
    own = "a7 plain secret of ours"
    code = f"import os, sys; [print(word) for word in {[ALL, *WORDS]!r}]; print(os.environ['MY_TOKEN']); sys.exit(3)"
    environment = {**os.environ, "MY_TOKEN": own.replace(" ", "-"), "PYTHONPATH": str(ROOT)}
    start = (
        "from pathlib import Path; import sys, json; from kctl.backends.local.backend import Local; "
        "Local(Path('.kctl')).create(json.load(sys.stdin))"
    )
    made = json.dumps(manifests("sad-0123abcd", code))
    subprocess.run([sys.executable, "-c", start], input=made, text=True, env=environment, check=True, cwd=here)
    until(Local(here / ".kctl"), "sad-0123abcd", lambda view: view.settled)
    for argv in (["logs"], ["explain"], ["status"], ["status", "-o", "json"]):
        command = [sys.executable, "-m", "kctl", argv[0], "sad-0123abcd", "--local", *argv[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here)
        assert done.returncode == 0 and leaks(done.stdout + done.stderr) == []
        assert environment["MY_TOKEN"] not in done.stdout + done.stderr
    Local(here / ".kctl").delete("sad-0123abcd", 20)


def test_what_stands_in_the_folders_of_finished_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Config, last words, answers and the adapter's manifest, written by somebody with an older trainer."""
    runs = finished.Runs(here, capsys)
    one, two = runs.made("one", 8), runs.made("two", 16)
    text = " ; ".join(SHAPED.values())
    for folder, answer in ((one, text), (two, text[::-1])):
        finished.publish(folder, b"w", data=text)
        finished.train(folder, 2.5, answer=answer)
        value = json.loads(folder.config.read_text())
        value["train"] |= {"model": {"path": answer}, "seed": 7}
        folder.config.write_text(json.dumps(value))
        folder.result.write_text(json.dumps({"phase": "Failed", "sentence": ALL, "after": {"loss": 1.0}}))
    reading = ["adapters list", "adapters list -o json", "adapters show one", "adapters show one -o yaml", "status one"]
    reading += ["adapters diff one two", "adapters diff one two -o json", "compare one two", "compare one two -o json"]
    for words in [*reading, "explain one"]:
        assert leaks(runs.kctl(0, *words.split()) + runs.err) == [], words
