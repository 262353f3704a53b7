"""Completion in a real bash, with the script that kctl prints; how long it takes; the other shells' scripts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kctl.run import names
from tests.cli.test_startup import processor_seconds

KCTL = Path(sys.executable).parent


def completed(words: list[str], folder: Path) -> list[str]:
    """What bash has in COMPREPLY after TAB behind these words."""
    script = (
        'eval "$(kctl completion bash)"; COMP_WORDS=(kctl "$@"); COMP_CWORD=$#; compopt() { echo "compopt $*"; }; '
        '_kctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = str(shutil.which("bash"))
    done = subprocess.run(
        [bash, "--norc", "-c", script, "bash", *words],
        env={**os.environ, "PATH": f"{KCTL}:{os.environ['PATH']}", "KCTL_CACHE": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_verbs_options_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCTL_CACHE", str(tmp_path))
    names.remember("in namespace n of context c", ["demo-00000001", "lora-di3-00000002"])
    assert completed(["stat"], tmp_path) == ["status"]
    assert completed(["status", "lora"], tmp_path) == ["lora-di3-00000002"]
    names.remember_one("in namespace n of context c", "@production")
    assert completed(["pull", "@", "pro"], tmp_path) == ["@production"], "bash parts words at @"
    assert completed(["compare", "@", "latest", "@"], tmp_path) == ["@production"]
    assert completed(["submit", "lora_di5"], tmp_path) == ["lora_di5"]
    assert completed(["submit", "--set", "train.epo"], tmp_path) == ["compopt -o nospace", "train.epochs="]
    assert completed(["validate", "configs/"], tmp_path) == [""]  # none of ours: bash offers files


@pytest.mark.parametrize("words", [[""], ["status", ""], ["submit", "--set", "train."]])
def test_it_answers_in_time(words: list[str]) -> None:
    assert min(processor_seconds(["__complete", *words]) for _ in range(3)) <= 0.15


def test_it_loads_no_command_line() -> None:
    code = "import sys; sys.argv[1:] = ['__complete', 'status', '']\nimport kctl.cli\n"
    code += "try: kctl.cli.main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stderr.split()
    assert "kctl.complete" in loaded and not {"typer", "pydantic", "yaml", "rich"} & set(loaded)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = subprocess.run([KCTL / "kctl", "completion", shell], capture_output=True, text=True, check=True)
    assert f"for {shell}" in done.stdout and "kctl __complete" in done.stdout
