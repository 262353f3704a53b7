"""Files appear by rename, complete or not at all: also when the disk is full, the volume read-only, the writer dead."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.launch_world import ROOT
from trainer.atomic import heal, replace_folder, temporary, write_json, write_text
from trainer.errors import OwnershipLost, RunsFolderError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def on_tmpfs(folder: Path, options: str, program: str) -> str:
    """What `program` prints with a tmpfs at `folder` that only it sees (a mount namespace of its own)."""
    shell = 'mount -t tmpfs -o "$1" tmpfs "$2" && exec "$3" -c "$4" "$2"'
    words = ["sh", "-c", shell, "sh", options, str(folder), sys.executable, program]
    unshare = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-r", "-m"]
    done = subprocess.run([*unshare, *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "value.json"

    @settings(max_examples=60)
    @given(value=JSON)
    def check(value: object) -> None:
        write_json(path, value)
        assert json.loads(path.read_bytes()) == value
        assert [name.name for name in path.parent.iterdir()] == ["value.json"]

    check()


def test_what_is_no_character_becomes_a_question_mark(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before \udcff after")
    assert (tmp_path / "a").read_text() == "before ? after"


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_guard_has_the_last_word(tmp_path: Path) -> None:
    def refuse() -> None:
        raise OwnershipLost("another pod")

    write_text(tmp_path / "a", "old")
    with pytest.raises(OwnershipLost):
        write_text(tmp_path / "a", "new", refuse)
    assert (tmp_path / "a").read_text() == "old"
    folder = tmp_path / ".b.tmp"
    folder.mkdir()
    with pytest.raises(OwnershipLost):
        replace_folder(folder, tmp_path / "b", refuse)
    assert not (tmp_path / "b").exists()


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    program = """
import pathlib, sys
from trainer.atomic import write_text
from trainer.errors import RunsFolderError
path = pathlib.Path(sys.argv[1]) / "result.json"
write_text(path, "old")
try:
    write_text(path, "x" * 200_000)
except RunsFolderError as error:
    print(error, int(error.code), path.read_text(), [name.name for name in path.parent.iterdir()])
"""
    said = on_tmpfs(tmp_path, "size=64k", program)
    assert "No space left on device: make room" in said
    assert said.strip().endswith("7 old ['result.json']")


def test_a_full_disk_keeps_the_old_folder(tmp_path: Path) -> None:
    program = """
import pathlib, sys
from trainer.atomic import replace_folder, write_text
from trainer.errors import RunsFolderError
root = pathlib.Path(sys.argv[1])
for number in range(20):
    temp = root / ".adapter.tmp"
    temp.mkdir()
    try:
        write_text(temp / "weights", str(number) * 20_000)
        replace_folder(temp, root / "adapter")
    except RunsFolderError:
        break
    (root / "filler").write_bytes(b"x" * min(4096 * number, 30_000))
print(number, set((root / "adapter" / "weights").read_text()))
"""
    number, kept = on_tmpfs(tmp_path, "size=64k", program).split()
    assert int(number) < 19 and kept == f"{{'{int(number) - 1}'}}"


def test_a_read_only_volume_is_named_with_the_remedy(tmp_path: Path) -> None:
    program = """
import pathlib, sys
from trainer.atomic import write_text
from trainer.errors import RunsFolderError
try:
    write_text(pathlib.Path(sys.argv[1]) / "a", "x")
except RunsFolderError as error:
    print(error)
"""
    assert "Read-only file system: mount the volume read-write" in on_tmpfs(tmp_path, "ro", program)


def test_a_missing_folder_is_a_runs_folder_error(tmp_path: Path) -> None:
    with pytest.raises(RunsFolderError, match="No such file or directory"):
        write_text(tmp_path / "gone" / "a", "x")


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    final = tmp_path / "adapter"
    for content in ("one", "two", "three"):
        temp = temporary(final)
        temp.mkdir()
        (temp / "weights").write_text(content)
        replace_folder(temp, final)
        assert (final / "weights").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_heal_finishes_what_a_killed_writer_began(tmp_path: Path, moment: str) -> None:
    final, aside, temp = tmp_path / "adapter", tmp_path / ".adapter.old", temporary(tmp_path / "adapter")
    for folder, content in ((final, "old"), (temp, "new")):
        folder.mkdir()
        (folder / "weights").write_text(content)
    if moment != "before":
        final.rename(aside)
    if moment == "after":
        temp.rename(final)
    (tmp_path / ".value.json.abc.tmp").write_text("half")
    heal(tmp_path)
    assert (final / "weights").read_text() == ("new" if moment == "after" else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    shutil.rmtree(final)
    heal(tmp_path / "no such folder")


def test_the_files_of_a_folder_can_be_read_by_the_next_pods_user(tmp_path: Path) -> None:
    temp = temporary(tmp_path / "final")
    (temp / "inner").mkdir(parents=True)
    for path in (temp / "closed", temp / "inner" / "closed"):
        path.touch(mode=0o600)
    replace_folder(temp, tmp_path / "final")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "final").rglob("closed")} == {0o644}


def test_what_may_not_be_published_is_removed(tmp_path: Path) -> None:
    temp = temporary(tmp_path / "final")
    temp.mkdir()
    (temp / "file").touch()

    def lost() -> None:
        raise OwnershipLost("another pod owns this run now")

    with pytest.raises(OwnershipLost):
        replace_folder(temp, tmp_path / "final", lost)
    assert list(tmp_path.iterdir()) == []
