"""What kctl reads from a run's folder: whatever stands there, it is read, left out, or named as damaged."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.backends.local.files import LocalFiles
from kctl.errors import Damaged
from kctl.run.folder import read_adapter, read_results
from trainer.schema.contract import RunFolder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = """step steps loss evaluation seconds mem_gib tokens_per_s item answer reference train model path hub id lora
rank after losses data base"""
KNOWN = st.sampled_from(NAMES.split())
OBJECTS = st.dictionaries(KNOWN, JSON | st.dictionaries(KNOWN, JSON, max_size=3), max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(OBJECTS, min_size=3, max_size=3), st.lists(OBJECTS, max_size=4), st.binary(max_size=20))
def test_nothing_there_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, whole: list[object], lines: list[object], junk: bytes
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.adapter.mkdir()
    manifest, folder_config, result = whole
    files = {"w.bin": {"size": 1, "sha256": "0" * 64}}
    (folder.adapter / "MANIFEST.json").write_text(json.dumps({**manifest, "files": files}))  # type: ignore[dict-item]
    folder.config.write_text(json.dumps(folder_config))
    folder.result.write_text(json.dumps(result))
    for path in (folder.metrics, folder.samples):
        path.write_bytes("".join(json.dumps(one) + "\n" for one in lines).encode("utf-8", "replace") + junk)
    view, results = read_adapter(LocalFiles(folder.root), "r"), read_results(LocalFiles(folder.root), "r")
    assert view is not None and view.size == 1
    assert all(loss == loss for losses in results.evaluations.values() for loss in losses.values())
    json.dumps([view.loss, results.loss, results.seconds, results.tokens_per_s, results.mem_gib], allow_nan=False)


def test_what_is_missing_is_none(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    assert read_adapter(files, "r") is None
    empty = read_results(files, "r")
    assert (empty.step, empty.best, empty.answers, empty.train) == (0, None, (), {})


def test_a_manifest_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    path = tmp_path / "adapter" / "MANIFEST.json"
    with path.open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(Damaged, match=r"adapter/MANIFEST\.json: more than 4194304 bytes"):
        read_adapter(LocalFiles(tmp_path), "r")
