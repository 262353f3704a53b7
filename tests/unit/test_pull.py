"""A pull ends with an adapter that is equal to the manifest, or with nothing."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.backends.local.files import LocalFiles
from kctl.errors import Damaged, KctlError, NotFound, Unreachable
from kctl.run.pull import parse_manifest, pull
from kctl.run.report import pull_report

BIG = bytes(range(256)) * 20_000


def publish(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    listed = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    (folder / "MANIFEST.json").write_text(json.dumps({"files": listed}))


class Line:
    """A connection to a real folder that is cut after so many bytes, as often as told; keeps what was asked for."""

    def __init__(self, root: Path, budget: int, cuts: int) -> None:
        self.inner, self.budget, self.cuts = LocalFiles(root), budget, cuts
        self.asked: list[tuple[str, int]] = []

    def names(self, folder: str) -> list[str]:
        return self.inner.names(folder)

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        self.asked.append((path, offset))
        sent = 0
        for chunk in self.inner.read(path, offset):
            if self.cuts and sent + len(chunk) > self.budget:
                self.cuts -= 1
                yield chunk[: self.budget - sent]
                raise Unreachable("the connection was cut")
            sent += len(chunk)
            yield chunk


@pytest.fixture
def run(tmp_path: Path) -> Path:
    publish(tmp_path / "run" / "adapter", {"adapter_model.safetensors": BIG, "adapter_config.json": b"{}"})
    return tmp_path / "run"


def held(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.iterdir()}


def test_pulled_once_and_there_the_second_time(run: Path, tmp_path: Path) -> None:
    target, told = tmp_path / "adapters" / "r", []
    first = pull(LocalFiles(run), "adapter", target, lambda done, size: told.append((done, size)))
    assert first.fresh and (first.files, first.size) == (2, len(BIG) + 2)
    assert told[-1] == (first.size, first.size) and told == sorted(told)
    assert held(target) == {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}
    assert not pull(LocalFiles(run), "adapter", target).fresh
    assert [path.name for path in target.parent.iterdir()] == ["r"]


def test_a_cut_is_taken_up_at_the_byte(run: Path, tmp_path: Path) -> None:
    line = Line(run, budget=2_000_000, cuts=2)
    assert pull(line, "adapter", tmp_path / "r").fresh
    big = [offset for path, offset in line.asked if path.endswith("safetensors")]
    assert big == [0, 2_000_000, 4_000_000]


def test_a_pull_that_ended_is_resumed_by_the_next(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kctl.run.pull.GIVE_UP_SECONDS", 0.3)
    with pytest.raises(Unreachable):
        pull(Line(run, budget=0, cuts=10**6), "adapter", tmp_path / "r")
    half = tmp_path / ".r.part"
    half.mkdir(exist_ok=True)
    (half / "adapter_model.safetensors").write_bytes(BIG[:3_000_000])
    assert not (tmp_path / "r").exists()
    line = Line(run, 0, 0)
    assert pull(line, "adapter", tmp_path / "r").fresh
    assert ("adapter/adapter_model.safetensors", 3_000_000) in line.asked
    assert (tmp_path / "r" / "adapter_model.safetensors").read_bytes() == BIG and not half.exists()


@pytest.mark.parametrize("left", [b"wrong" * 10, BIG + b"too long", BIG[:-1] + b"?"])
def test_what_a_former_pull_left_is_not_trusted(run: Path, tmp_path: Path, left: bytes) -> None:
    (tmp_path / ".r.part").mkdir()
    (tmp_path / ".r.part" / "adapter_model.safetensors").write_bytes(left)
    (tmp_path / ".r.part" / "of-an-older-adapter.bin").write_bytes(left)
    pull(LocalFiles(run), "adapter", tmp_path / "r")
    assert (tmp_path / "r" / "adapter_model.safetensors").read_bytes() == BIG
    assert len(held(tmp_path / "r")) == 3


@pytest.mark.parametrize("damage", [BIG[:-1], BIG + b"x", BIG[:-1] + b"?", b""])
def test_damage_is_named_and_nothing_arrives(run: Path, tmp_path: Path, damage: bytes) -> None:
    (run / "adapter" / "adapter_model.safetensors").write_bytes(damage)
    with pytest.raises(Damaged, match=r"adapter/adapter_model\.safetensors"):
        pull(LocalFiles(run), "adapter", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / ".r.part" / "adapter_model.safetensors").exists()


def test_a_missing_file_or_adapter_is_not_found(run: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="adapter-last"):
        pull(LocalFiles(run), "adapter-last", tmp_path / "r")
    (run / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(NotFound, match="adapter_config"):
        pull(LocalFiles(run), "adapter", tmp_path / "r")


def test_a_newer_adapter_replaces_an_untouched_pull_only(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "r"
    pull(LocalFiles(run), "adapter", target)
    publish(run / "adapter", {"adapter_model.safetensors": BIG[::-1], "adapter_config.json": b"{}"})
    assert pull(LocalFiles(run), "adapter", target).fresh
    assert (target / "adapter_model.safetensors").read_bytes() == BIG[::-1]
    (target / "adapter_config.json").write_bytes(b"{my own}")
    with pytest.raises(Damaged, match="adapter_config"):
        pull(LocalFiles(run), "adapter", target)
    (target / "adapter_config.json").write_bytes(b"{}")
    (target / "notes.txt").write_text("mine")
    assert not pull(LocalFiles(run), "adapter", target).fresh
    publish(run / "adapter", {"adapter_model.safetensors": BIG, "adapter_config.json": b"{}"})
    with pytest.raises(KctlError, match=r"notes\.txt"):
        pull(LocalFiles(run), "adapter", target)
    assert (target / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    with pytest.raises(KctlError, match="no pulled adapter"):
        pull(LocalFiles(run), "adapter", tmp_path / "other")


def test_an_adapter_that_changes_while_it_is_pulled(run: Path, tmp_path: Path) -> None:
    class Changing(Line):
        def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
            if path.endswith("safetensors") and not self.asked:
                publish(run / "adapter", {"adapter_model.safetensors": BIG[::-1], "adapter_config.json": b"{}"})
                self.asked.append((path, offset))
            return self.inner.read(path, offset)

    pull(Changing(run, 0, 0), "adapter", tmp_path / "r")
    assert (tmp_path / "r" / "adapter_model.safetensors").read_bytes() == BIG[::-1]
    assert not pull(LocalFiles(run), "adapter", tmp_path / "r").fresh


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", ".hidden", "", "MANIFEST.json", "a\x00b", "x" * 300])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    entry = {"size": 1, "sha256": "0" * 64}
    with pytest.raises(Damaged):
        parse_manifest(json.dumps({"files": {name: entry}}).encode(), "m")


keys = st.sampled_from(["files", "size", "sha256", "a.bin"]) | st.text(max_size=5)
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=70) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@given(values | st.fixed_dictionaries({"files": st.dictionaries(keys, values, max_size=3)}))
def test_any_json_is_a_manifest_or_damaged(value: Any) -> None:
    try:
        entries = parse_manifest(json.dumps(value).encode(), "m")
    except Damaged:
        return
    assert entries and all(entry.size >= 0 and len(entry.sha256) == 64 for entry in entries)


@given(st.binary())
def test_any_bytes_are_a_manifest_or_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        parse_manifest(data, "m")


def test_a_link_on_the_volume_leads_nowhere(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (run / "adapter" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(NotFound):
        list(LocalFiles(run).read("adapter/link"))
    with pytest.raises(NotFound):
        list(LocalFiles(run).read("../secret"))


def test_the_report_is_fetched_whole_each_time(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "here" / "r.html"
    with pytest.raises(NotFound, match=r"no report\.html there: a run writes it at its first evaluation"):
        pull_report(LocalFiles(run), target)
    for page in (b"<p>long", b"<p>"):
        (run / "report.html").write_bytes(page)
        pull_report(LocalFiles(run), target)
        assert target.read_bytes() == page
    with pytest.raises(Unreachable):
        pull_report(Line(run, budget=1, cuts=1), target)
    assert target.read_bytes() == b"<p>" and [path.name for path in target.parent.iterdir()] == ["r.html"]
    target.unlink()
    target.mkdir()
    with pytest.raises(KctlError, match=r"r\.html: Is a directory; mend it and pull again"):
        pull_report(LocalFiles(run), target)
