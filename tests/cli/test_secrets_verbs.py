"""The planted credentials of test_secrets, in what the other verbs read: live screens, clean-up, the programs on a
finished run, files of data, and what shells complete."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kctl.complete import main as complete
from kctl.run import names
from tests.cli import test_adapters as adapters
from tests.cli.api_server import ApiServer
from tests.cli.ready_cluster import CORE, JOBS
from tests.cli.test_local_top import terminal
from tests.cli.test_secrets import ALL, ROOT, WORDS, ask, here, server, told
from tests.planted_secrets import PLANTED, SHAPED, key_lines, leaks
from tests.unit.dataset_world import write_model
from tests.unit.explain_world import RUN, job, pod
from trainer.schema.contract import LABEL_JOB_NAME
from trainer.schema.redaction import HIDDEN

__all__ = ["here", "server"]  # the fixtures
PROGRAMS = [("merge", RUN), ("export", RUN), ("generate", RUN, "--test", "t.json", "--out", "a.json")]


def failed(words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job that has ended and its pod, both with `words` as their last ones."""
    ended = {"exitCode": 3, "message": json.dumps({"code": 3, "sentence": words})}
    one, each = job("Failed"), pod("Failed", {"terminated": ended})
    one["status"]["conditions"][0]["message"] = words
    each["metadata"]["labels"][LABEL_JOB_NAME] = RUN
    return one, each


@pytest.mark.parametrize("part", range(4))
def test_top_and_prune(server: ApiServer, capfd: pytest.CaptureFixture[str], part: int) -> None:
    for words in WORDS[part::4]:
        one, each = failed(words)
        server.answers |= {JOBS: [one], f"{JOBS}/{RUN}": one, f"{CORE}/pods": [each], f"{CORE}/events": []}
        server.answers[f"DELETE {JOBS}/{RUN}"] = (403, words)
        ask(capfd, ("top", RUN), ("prune", "--dry-run"), ("prune", "--yes"))
        assert told(capfd, "top", RUN)[1].count(HIDDEN) >= 1
        server.answers[JOBS] = server.answers[f"{JOBS}/{RUN}"] = (403, words)
        ask(capfd, ("top", RUN), ("prune", "--yes"))


def test_the_screen_of_top(server: ApiServer, here: Path) -> None:
    one, each = failed(ALL)
    server.answers |= {JOBS: [one], f"{JOBS}/{RUN}": one, f"{CORE}/pods": [each], f"{CORE}/events": []}
    seen = b""
    with terminal(["top", RUN], 20_000, PYTHONPATH=str(ROOT)) as (process, screen):
        try:
            while piece := os.read(screen, 1 << 16):
                seen += piece
        except OSError:  # the terminal is closed
            assert process.wait(30) == 0
    assert leaks(seen) == [] and HIDDEN.encode() in seen


@pytest.mark.parametrize("argv", PROGRAMS, ids=lambda argv: argv[0])
def test_the_pod_of_a_program(server: ApiServer, capfd: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    """Its log, its last words, why it failed, and that it is refused."""
    one, name = job("Succeeded"), f"{RUN}-{argv[0]}"
    key = key_lines(24, "EC ")  # told by its first line alone
    log = [*key, *(line for words in WORDS for line in words.split("\\n")), f"error: {ALL}"]
    container = {"name": "pytorch", "state": {"terminated": {"exitCode": 3, "message": ALL}}}
    status = {"phase": "Failed", "reason": ALL, "containerStatuses": [container]}
    made = {"metadata": {"name": name, "uid": "u-9"}, "spec": {"containers": [container]}, "status": status}
    server.answers |= {JOBS: [one], f"{JOBS}/{RUN}": one, f"{CORE}/pods": [made], f"{CORE}/pods/{name}": made}
    server.answers[f"{CORE}/pods/{name}/log"] = "".join(f"2026-01-01T00:00:00.5Z {line}\n" for line in log)
    code, said = told(capfd, *argv)
    assert code and leaks(said) == [] and said.count(HIDDEN) >= len(WORDS)
    assert not any(line in said for line in key[1:-1])
    for place, words in enumerate(WORDS):
        server.answers[f"POST {CORE}/pods"] = ((403, 400, 422)[place % 3], words)
        ask(capfd, argv)


def test_a_program_on_a_local_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As processes: what kctl's environment holds is taken out to the letter, here a part of each path."""
    adapters.publish(adapters.Runs(here, capsys).made("one", 8), b"w")
    environment = {**os.environ, "DB_PASS": here.name, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kctl", "merge", "one", "--local"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here)
    said = done.stdout + done.stderr
    assert done.returncode and f"{here.parent}/{HIDDEN}/" in said and here.name not in said


OTHERS = [
    ("stats",),
    ("preview", "--tokenizer", "model"),
    ("sample", "out.json", "--max", "1"),
    ("convert", "out.json", "--to", "prompt_completion"),
]


def test_files_of_data(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Their rows are the user's own; what is said about a row that is wrong quotes none."""
    write_model(here / "model")
    for place, (words, secret) in enumerate(PLANTED.values()):
        lines = [{"messages": [{"role": words, "content": "a"}]}, {"messages": words}, {words: words}, words]
        (here / "chats.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + words + "\n")
        (here / "array.json").write_text(words)
        (here / "people.json").write_text(json.dumps([{"role": words, "task": {words: words}}, words]))
        for file, form in (("chats.jsonl", "messages"), ("array.json", "chameleons"), ("people.json", "chameleons")):
            for verb, *more in (("validate",), OTHERS[place % len(OTHERS)]):
                (here / "out.json").unlink(missing_ok=True)
                _, said = told(capfd, "data", verb, file, *more, "--format", form)
                assert said and "internal error" not in said
                assert secret not in said and secret[:30] not in said, (words, verb)


@pytest.mark.parametrize("secret", SHAPED.values(), ids=list(SHAPED))
def test_names_that_are_one(here: Path, capfd: pytest.CaptureFixture[str], secret: str) -> None:
    """A file, a context, a run of somebody: neither refused verbs nor shells repeat it."""
    ask(capfd, ("data", "stats", secret), ("data", "sample", "configs/tiny.yaml", secret, "--format", secret))
    ask(
        capfd,
        ("completion", secret),
        ("prune", "--older-than", secret),
        ("generate", RUN, "--test", secret, "--out", "x"),
    )
    names.remember(f"in namespace team of context {secret}", ["good-00000001", secret.lower()[:60]])
    if "/" not in secret:
        (here / "configs" / f"{secret[:200]}.yaml").write_text("{}")
    for words in (["status", ""], ["submit", ""], ["pull", "--context", ""], ["pull", "-n", ""]):
        assert complete(words) == 0
        assert leaks(said := capfd.readouterr().out) == [], words
        assert words != ["status", ""] or "good-00000001" in said
