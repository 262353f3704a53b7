"""Rendered manifests and run names, byte for byte. UPDATE_GOLDEN=1 writes them anew: look at the diff.

A changed run name means that old runs are not found under their config any more: raise the schema number.
"""

import os
from pathlib import Path

import pytest

from kctl.config.resolve import shipped_configs
from kctl.config.run_config import load
from kctl.manifest.render import render, to_yaml
from tests.cli.profiles import cases

GOLDEN = Path(__file__).parent
SHIPPED = sorted(path.stem for path in shipped_configs().glob("*.yaml"))


def compare(path: Path, text: str) -> None:
    """Compare with the golden file, or write it."""
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    assert path.read_bytes().decode() == text, "UPDATE_GOLDEN=1 writes the golden files anew"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_render_to_the_golden_bytes(name: str) -> None:
    loaded = load(name, [])
    rendered = render(loaded.config, loaded.profile, None)
    compare(GOLDEN / "manifests" / f"{name}.yaml", to_yaml(rendered.manifests))


@pytest.mark.parametrize("name", sorted(cases()))
def test_other_kinds_of_runs_render_to_the_golden_bytes(name: str) -> None:
    case = cases()[name]
    rendered = render(case.config, case.profile, case.namespace)
    compare(GOLDEN / "manifests" / f"case-{name}.yaml", to_yaml(rendered.manifests))


def test_run_names_are_pinned() -> None:
    names = [f"{name} {load(name, []).config.run}" for name in SHIPPED]
    compare(GOLDEN / "run-names.txt", "\n".join(names) + "\n")


def test_no_golden_manifest_is_left_over() -> None:
    expected = {*SHIPPED, *(f"case-{name}" for name in cases())}
    assert {path.stem for path in (GOLDEN / "manifests").glob("*.yaml")} == expected
