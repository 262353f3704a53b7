"""What kctl says of itself: every verb has two examples that it takes, and the files made of that are current."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kctl.cli import VERBS, app, run
from kctl.reference import COMMANDS, WORDS, commands_page, told, verbs, words

EVERY = {" ".join(names): verb for names, verb in verbs(app())}
EXAMPLES = [line for verb in EVERY.values() for line in told(verb)[1]]
KCTL = str(Path(sys.executable).with_name("kctl"))


def its_words(line: str) -> list[str]:
    """The arguments of kctl in an example: without a comment, a redirection, or the shell's own words around it."""
    match = re.search(r"\bkctl ([^>)#|]*)", line)
    assert match, line
    return shlex.split(match[1])


@pytest.mark.parametrize("name", EVERY)
def test_every_verb_has_two_examples_of_itself(name: str) -> None:
    said, lines = told(EVERY[name])
    assert said and said[0].isupper() and said.endswith(".")
    assert len(lines) >= 2 and all(its_words(line)[: len(name.split())] == name.split() for line in lines)
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize("line", EXAMPLES)
def test_each_example_is_a_command_line_that_kctl_takes(line: str) -> None:
    command: Any = get_command(app())
    words = its_words(line)
    while getattr(command, "commands", None):
        command = command.commands[words.pop(0)]
    command.make_context("kctl", words)


def test_help_shows_the_examples_line_by_line() -> None:
    done = subprocess.run(
        [KCTL, "submit", "--help"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "40"}
    )
    assert "\n  Examples:\n    kctl submit lora_di3 --follow\n    kctl submit lora_di3 --set" in done.stdout


def test_examples_that_need_no_cluster_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    verbs_alone = ("validate", "plan", "render", "schema", "completion")
    offline = [line for line in EXAMPLES if its_words(line)[0] in verbs_alone]
    offline += [line for line in EXAMPLES if its_words(line)[0] == "init" and len(its_words(line)) > 1]
    offline += [line for line in EXAMPLES if its_words(line)[:2] == ["gitops", "health"]]
    assert len(offline) >= 12
    for line in offline:
        code, shown = run(its_words(line)), capsys.readouterr()
        assert code == 0 and shown.out, f"{line}: {shown.err}"


def test_what_is_made_of_the_command_line_is_current() -> None:
    for path, text in ((COMMANDS, commands_page()), (WORDS, words())):
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is old: python -m kctl.reference"
    assert {name.split()[0] for name in EVERY} == set(VERBS)
