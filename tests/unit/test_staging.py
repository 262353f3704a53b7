"""What arrives on a volume is whole or not seen, lies below the root, and is nobody else's."""

import errno
import hashlib
import io
import os
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import staging
from trainer.arrival import FOLDER, Arriving, arriving
from trainer.staging import append, check, clean, found, publish


def _file(path: str, content: bytes) -> Arriving:
    return Arriving(path, len(content), hashlib.sha256(content).hexdigest())


def _nothing() -> None:
    pass


def _sent(root: Path, path: str, content: bytes) -> Arriving:
    file = _file(path, content)
    append(root, file, 0, io.BytesIO(content), len(content))
    return file


@given(st.lists(st.sampled_from(["", ".", "..", "a", "b c", "ü", "-x", "\0", FOLDER]), max_size=4).map("/".join))
def test_a_path_stays_below_the_root(path: str) -> None:
    try:
        file = arriving(path, 1, "0" * 64)
    except ValueError:
        assert {"", ".", "..", FOLDER} & set(path.split("/")) or "\0" in path
    else:
        assert (Path("/root") / file.path).resolve().is_relative_to("/root/") and file.parts[0] != FOLDER


@given(st.one_of(st.none(), st.integers(max_value=-1), st.booleans(), st.text(max_size=3)), st.text(string.hexdigits))
def test_nonsense_is_refused(size: object, sha256: str) -> None:
    for asked in (("a", size, "0" * 64), ("a", 1, sha256[:63]), (None, 1, "0" * 64)):
        with pytest.raises(ValueError):
            arriving(*asked)


def test_seen_only_once_all_are_whole(tmp_path: Path) -> None:
    first, second = _sent(tmp_path, "m/a", b"first"), _file("m/b", b"second")
    assert found(tmp_path, first) == {"there": None, "sent": 5}
    assert check(tmp_path, first, _nothing) and not (tmp_path / "m").exists()
    with pytest.raises(FileNotFoundError, match="is gone"):
        publish(tmp_path, [first, second], False, _nothing)
    assert not (tmp_path / "m").exists()
    append(tmp_path, second, 0, io.BytesIO(b"sec"), 6)
    append(tmp_path, second, 0, io.BytesIO(b"xxx"), 3)  # not where it ends: nothing is written
    assert append(tmp_path, second, 3, io.BytesIO(b"ond"), 3) == 6 and check(tmp_path, second, _nothing)
    publish(tmp_path, [first, second], False, _nothing)
    assert (tmp_path / "m" / "b").read_bytes() == b"second" and [path.name for path in tmp_path.iterdir()] == ["m"]
    publish(tmp_path, [first, second], False, _nothing)  # the answer was lost: asked again


def test_wrong_bytes_are_removed(tmp_path: Path) -> None:
    file = _file("a", b"right")
    append(tmp_path, file, 0, io.BytesIO(b"wrong"), 5)
    assert not check(tmp_path, file, _nothing) and found(tmp_path, file) == {"there": None, "sent": 0}


def test_another_file_is_overwritten_only_when_asked(tmp_path: Path) -> None:
    file = _sent(tmp_path, "a", b"ours")
    assert check(tmp_path, file, _nothing)
    (tmp_path / "a").write_bytes(b"came meanwhile")
    with pytest.raises(FileExistsError, match="meanwhile"):
        publish(tmp_path, [file], False, _nothing)
    assert (tmp_path / "a").read_bytes() == b"came meanwhile"
    publish(tmp_path, [file], True, _nothing)
    assert (tmp_path / "a").read_bytes() == b"ours"


def test_no_link_on_the_volume_is_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    file = _sent(root, "link/a", b"x")
    assert check(root, file, _nothing)
    with pytest.raises(OSError):
        publish(root, [file], True, _nothing)
    (root / "to-file").symlink_to(outside / "a")
    with pytest.raises(OSError, match="no file"):
        found(root, _file("to-file", b"x"))
    (root / FOLDER / "x").unlink(missing_ok=True)
    assert list(outside.iterdir()) == []


def test_what_nobody_goes_on_with_is_removed(tmp_path: Path) -> None:
    """Another content of the same path after a minute, anything after a week; what is being sent never."""
    ours, other = _sent(tmp_path, "a", b"ours"), _sent(tmp_path, "a", b"older")
    old, elsewhere = _sent(tmp_path, "b", b"old"), _sent(tmp_path, "c", b"new")
    aside = tmp_path / FOLDER
    clean(tmp_path, [ours])
    assert len(list(aside.iterdir())) == 4
    minute, week = time.time() - staging.BUSY_SECONDS - 1, time.time() - staging.KEPT_SECONDS - 1
    for file, when in ((ours, minute), (other, minute), (elsewhere, minute), (old, week)):
        os.utime(aside / file.part, (when, when))
    clean(tmp_path, [ours])
    assert {path.name for path in aside.iterdir()} == {ours.part, elsewhere.part}


def test_a_push_that_is_still_sending_loses_nothing_to_another(tmp_path: Path) -> None:
    """What it finished minutes ago stays while it sends the next file; a folder there is nobody's file."""
    done, other = _sent(tmp_path, "a", b"done"), _file("a", b"another's")
    assert check(tmp_path, done, _nothing)
    sending, aside = _sent(tmp_path, "b", b"now"), tmp_path / FOLDER
    (aside / "folder").mkdir()
    for name, seconds in ((done.whole, staging.BUSY_SECONDS), ("folder", staging.KEPT_SECONDS)):
        os.utime(aside / name, (time.time() - seconds - 1,) * 2)
    clean(tmp_path, [other])
    assert {path.name for path in aside.iterdir()} == {done.whole, sending.part, "folder"}


def test_what_comes_after_the_look_is_kept(tmp_path: Path) -> None:
    ours, shown = _sent(tmp_path, "a", b"ours"), _sent(tmp_path, "b", b"b")
    assert check(tmp_path, shown, _nothing) and check(tmp_path, ours, _nothing)
    publish(tmp_path, [shown], False, _nothing)
    with pytest.raises(FileExistsError, match="meanwhile"):  # `b` is looked at last
        publish(tmp_path, [ours, shown], False, lambda: (tmp_path / "a").write_bytes(b"theirs") and None)
    assert (tmp_path / "a").read_bytes() == b"theirs"
    (tmp_path / "a").write_bytes(b"ours")
    publish(tmp_path, [ours], False, _nothing)  # that very file: nothing is left aside
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_volume_without_links(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*names: str, **folders: object) -> None:
        raise OSError(code, "no links here")

    file = _sent(tmp_path, "a", b"ours")
    assert check(tmp_path, file, _nothing)
    monkeypatch.setattr(os, "link", link)
    publish(tmp_path, [file], False, _nothing)
    assert (tmp_path / "a").read_bytes() == b"ours" and not (tmp_path / FOLDER).exists()


def test_what_lies_aside_is_believed_by_its_bytes(tmp_path: Path) -> None:
    file, aside = _file("a", b"right"), tmp_path / FOLDER
    aside.mkdir()
    (aside / file.whole).write_bytes(b"wrong")
    assert not check(tmp_path, file, _nothing) and found(tmp_path, file) == {"there": None, "sent": 0}
    (tmp_path / "right").write_bytes(b"right")
    (aside / file.whole).symlink_to(tmp_path / "right")
    for act in (lambda: found(tmp_path, file), lambda: publish(tmp_path, [file], True, _nothing)):
        with pytest.raises(OSError, match="no file"):
            act()
    with pytest.raises(OSError):
        check(tmp_path, file, _nothing)
