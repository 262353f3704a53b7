"""The house keeps its word: commands in the documents exist and run, images are pinned, lengths are counted."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.check_lengths import main as check_lengths

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/README.md")])
KCTL = str(Path(sys.executable).with_name("kctl"))


def _blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def _commands(word: str) -> list[str]:
    """Command lines in README's shell blocks that start with `word`, without their comments."""
    lines = [line for block in _blocks(ROOT / "README.md", "bash") for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith(f"{word} ")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as README's reader has it: the default profile copied, README's own config beside it."""
    clusters = tmp_path / "configs" / "clusters"
    clusters.mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "clusters" / "default.yaml", clusters / "default.yaml")
    (config,) = (block for block in _blocks(ROOT / "README.md", "yaml") if "extends:" in block)
    (tmp_path / "configs" / "my_run.yaml").write_text(config, encoding="utf-8")
    return tmp_path


def _kctl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([KCTL, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_every_make_target_in_the_documents_exists() -> None:
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = re.findall(r"^make ((?:[a-z-]+ ?)+)", text, re.MULTILINE) + re.findall(r"`make ([a-z -]+)", text)
        assert {target for words in named for target in words.split()} <= set(rules), document


def test_every_verb_in_the_documents_exists() -> None:
    listed = _kctl(ROOT, "--help").stdout.partition("Commands:")[2]
    verbs = set(re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE))
    assert verbs
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = re.findall(r"^(?:\$ )?kctl ([a-z]+)", text, re.MULTILINE) + re.findall(r"`kctl ([a-z]+)", text)
        assert set(named) <= verbs, document


def test_offline_commands_of_readme_run(project: Path) -> None:
    words = ("validate", "plan", "render", "schema", "gitops")
    offline = [line for line in _commands("kctl") if shlex.split(line)[1] in words]
    assert len(offline) >= 5
    for line in offline:
        done = _kctl(project, *shlex.split(line)[1:])
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert done.stdout.strip()


def test_the_config_of_readme_is_valid_and_its_error_is_real(project: Path) -> None:
    done = _kctl(project, "validate", "my_run")
    assert done.returncode == 0, done.stderr
    config = project / "configs" / "my_run.yaml"
    config.write_text(config.read_text().replace("rank: 32", "rank: 0"))
    done = _kctl(project, "validate", "configs/my_run.yaml")
    assert done.returncode == 2
    assert done.stderr.strip() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_exit_codes_of_readme_are_those_of_kctl() -> None:
    from kctl import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {value.exit_code for value in classes if issubclass(value, errors.KctlError)}
    table = re.findall(r"^\| (\d+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(code) for code in table} == codes | {0, 130}


def test_documents_are_short_and_linked_files_exist() -> None:
    limits = {"README.md": 150, "ARCHITECTURE.md": 230}
    for name, most in limits.items():
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document}: {target}"


def test_each_old_trouble_has_a_test_or_a_sentence() -> None:
    told = (ROOT / "tests" / "TROUBLES.md").read_text(encoding="utf-8")
    tests = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    there = {name for text in tests for name in re.findall(r"def (test_\w+)\(", text)}
    assert set(re.findall(r"`(test_\w+)`", told)) <= there
    numbers = re.findall(r"^\| ([\d, ]+) \|", told, re.MULTILINE)
    assert sorted(int(one) for row in numbers for one in row.split(",")) == list(range(1, 65))


def test_every_folder_says_what_it_is() -> None:
    for folder in ("kctl", "trainer", "configs", "demo", "docs", "images", "tests"):
        lines = (ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()
        assert 5 <= len(lines) <= 30, folder


def test_nothing_of_the_house_names_a_host_or_a_machine() -> None:
    house = [
        ROOT / "Makefile",
        ROOT / "Dockerfile",
        ROOT / ".ci" / "run",
        ROOT / ".dockerignore",
        ROOT / "pyproject.toml",
    ]
    for path in [*house, *DOCUMENTS, *ROOT.glob("demo/*.py"), *ROOT.glob("images/*")]:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert text.isascii(), path
            for forbidden in ("://", "/root", "/work", "/opt/wheels", "--index-url", "extra-index"):
                assert forbidden not in text, f"{path}: {forbidden}"


def _pins() -> dict[str, str]:
    lines = (ROOT / "images" / "constraints.txt").read_text(encoding="ascii").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line) for line in pins)
    return dict(line.split("==") for line in pins)


def test_constraints_pin_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    in_the_image = [asked for name in ("trainer", "wandb", "tensorboard", "flash") for asked in extras[name]]
    asked = project["project"]["dependencies"] + in_the_image
    pins = _pins()
    for requirement in map(Requirement, asked + project["build-system"]["requires"]):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned and requirement.specifier.contains(Version(pinned)), f"{requirement}: pinned to {pinned}"


def test_the_import_contract_of_kctl_names_every_other_module_of_the_trainer() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (one for one in project["tool"]["importlinter"]["contracts"] if one.get("source_modules") == ["kctl"])
    files = [*ROOT.glob("trainer/*.py"), *(one.parent for one in ROOT.glob("trainer/*/__init__.py"))]
    modules = {f"trainer.{file.stem}" for file in files if file.stem != "__init__"}
    assert modules - set(contract["forbidden_modules"]) == {"trainer.schema", "trainer.errors", "trainer.dataset"}


def test_dockerfile() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    images = {stage.split("\n")[0].rpartition(" AS ")[2]: stage for stage in stages}
    assert text.count("ARG BASE=debian:bookworm-slim") == 1
    for name in ("kctl", "trainer"):
        lines = [line for line in images[name].splitlines() if line and not line.startswith("#")]
        assert lines[-1] == "COPY --from=code /opt/app /opt/app"  # our code is the last layer
        assert "USER 10001:10001" in lines
        assert any(line.startswith('ENTRYPOINT ["/usr/bin/tini", "--"') for line in lines)
    assert "gcc" in images["trainer"] and "python3-dev" in images["trainer"]  # Triton compiles at run time
    assert "gcc" not in images["kctl"] + images["base"] + images["packages"]
    assert "constraint = /opt/venv/requirements/constraints.txt" in (ROOT / "images" / "pip.conf").read_text()
    assert "pip freeze" in images["packages"] and "pip freeze" in images["trainer"]
    copied = re.findall(r"^COPY (?!--from)(.+)", text, re.MULTILINE)
    sources = {source for line in copied for source in line.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sources == {line[1:] for line in ignored if line.startswith("!")} - {"images/*.whl"}
    assert all((ROOT / source).exists() for source in sources)


def test_make_image_without_a_builder_says_what_to_install(tmp_path: Path) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    environment = {"PATH": str(tmp_path)}
    script = ROOT / "images" / "build.sh"
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: make image: no image builder works here: apt-get install buildah\n"


def test_lengths_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "kctl"
    folder.mkdir()
    module = folder / "long.py"
    module.write_text("def fits() -> None:\n" + "    fits()\n" * 59 + "pass\n" * 240)
    assert check_lengths(tmp_path) == 0
    module.write_text("def grew() -> None:\n" + "    grew()\n" * 60 + "pass\n" * 240)
    assert check_lengths(tmp_path) == 1
    out = capsys.readouterr().out
    assert "long.py: 301 lines, at most 300" in out and "long.py:1: grew has 61 lines, at most 60" in out
    module.unlink()
    assert check_lengths(tmp_path) == 1  # nothing found is no success


def test_ci_runs_what_readme_says() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in ("make test", "make check", "make test-cluster", "make demo"):
        assert re.search(rf"^part [a-z-]+ (?:timeout \d+ )?{part}(?: #.*)?$", text, re.MULTILINE), part
    assert "set -euo pipefail" in text
