"""kctl push as a person types it, onto a folder of this machine: the receiver is the program that runs in a pod."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from kctl.backends.cluster.volume_pod import writer_pod
from kctl.backends.local.writing import writable
from kctl.backends.volume import Volume, VolumeFile, Wire
from kctl.cli import run as kctl
from kctl.errors import Damaged, KctlError
from kctl.manifest import the_job
from kctl.manifest.render import render
from kctl.run.push import describe, push, sources
from tests.cli.profiles import config, profile
from trainer.arrival import FOLDER, Arriving
from trainer.staging import append

MIB = 2**20


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KCTL_LOCAL", str(tmp_path / "local"))
    return tmp_path


def _model(folder: Path) -> Path:
    (folder / "größe und 名").mkdir(parents=True)
    (folder / "größe und 名" / "-dash.json").write_text("{}")
    (folder / "weights.bin").write_bytes(os.urandom(3 * MIB))
    (folder / "empty").touch()
    return folder


def _held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_the_second_time(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _model(here / "tiny")
    assert kctl(["push", "tiny", "--to", "models/acme", "--local"]) == 0
    first = capsys.readouterr()
    assert first.out == "models/acme/tiny\n" and "3 files, 3.0 MiB, sha256 checked" in first.err
    assert "in a config: train.model.path: acme/tiny" in first.err
    assert _held(here / "local" / "models") == {f"acme/tiny/{name}": data for name, data in _held(model).items()}
    assert kctl(["push", "tiny", "--to", "models/acme", "--local"]) == 0
    assert "already there: 3 files" in capsys.readouterr().err


def test_what_differs_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, there = _model(here / "tiny"), here / "local" / "models" / "tiny"
    assert kctl(["push", "tiny", "--to", "models", "--local"]) == 0
    (model / "empty").write_text("no more")
    (model / "new").write_text("new")
    capsys.readouterr()
    assert kctl(["push", "tiny", "--to", "models", "--local"]) == 1
    said = capsys.readouterr().err
    assert "1 of 4 files are there with another content: tiny/empty (there 0 B, here 7 B); nothing was changed" in said
    assert (there / "empty").read_bytes() == b"" and not (there / "new").exists()
    assert kctl(["push", "tiny", "--to", "models", "--local", "--replace"]) == 0
    assert "4 files, 3.0 MiB (2 of them sent), sha256 checked" in capsys.readouterr().err
    assert _held(there) == _held(model)


def test_a_file_and_odd_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "-x y.json").write_text("[]")
    assert kctl(["push", "--to", "data/chameleons", "--local", "--", "-x y.json"]) == 0
    assert kctl(["push", "--to", "data", "--as", "train.json", "--local", "--", "-x y.json"]) == 0
    assert "in a config: train.data.path: train.json" in capsys.readouterr().err
    assert sorted(_held(here / "local" / "data")) == ["chameleons/-x y.json", "train.json"]


def test_a_hub_s_cache(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its snapshots are links to blobs beside them: the contents are pushed, under the model's name."""
    model = here / "models--acme--tiny"
    (model / "blobs").mkdir(parents=True)
    (model / "blobs" / "0123").write_text("weights")
    (model / "snapshots" / "abcd").mkdir(parents=True)
    (model / "snapshots" / "abcd" / "model.safetensors").symlink_to("../../blobs/0123")
    assert kctl(["push", str(model), "--to", "models", "--local"]) == 2
    assert "push one of its snapshots, e.g. " in capsys.readouterr().err
    assert kctl(["push", str(model / "snapshots" / "abcd"), "--to", "models", "--local"]) == 0
    copy = here / "local" / "models" / "tiny" / "model.safetensors"
    assert copy.read_text() == "weights" and not copy.is_symlink()


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "nowhere", "inside"])
def test_links_lead_to_files_of_the_folder_alone(here: Path, target: str) -> None:
    (here / "outside").write_text("secret")
    (here / "tiny" / "inside").mkdir(parents=True)
    (here / "tiny" / "link").symlink_to(target)
    assert kctl(["push", "tiny", "--to", "models", "--local"]) == 2
    assert not (here / "local").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["absent", "--to", "data"], 4, "absent: no such file or folder"),
        (["nothing", "--to", "data"], 2, "nothing: there is no file in it"),
        (["one", "--to", "runs"], 2, "wants models, data, or a folder below one of them"),
        (["one", "--to", "data/../x"], 2, "'../x/one' leads elsewhere"),
        (["one", "--to", "/data"], 2, "wants models, data"),
        (["one", "--to", "data", "--as", "a/b"], 2, "'a/b' leads elsewhere"),
        (["one", "--to", f"data/{FOLDER}"], 1, "leads elsewhere"),
        (["pipes", "--to", "data"], 2, "pipes/p: is neither a file nor a folder"),
        (["one", "--to", "data/file"], 1, "Not a directory"),
        (["one", "--to", "data", "--as", "folder"], 1, "something that is no file is there"),
    ],
)
def test_refused(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str) -> None:
    (here / "one").write_text("1")
    (here / "nothing").mkdir()
    (here / "pipes").mkdir()
    os.mkfifo(here / "pipes" / "p")
    data = here / "local" / "data"
    (data / "folder").mkdir(parents=True)
    (data / "file").touch()
    assert kctl(["push", *words, "--local"]) == code
    assert said in capsys.readouterr().err
    assert {"file", "folder"} >= {path.name for path in data.iterdir()} - {FOLDER}


def test_a_full_volume_is_said_before_anything_is_sent(here: Path) -> None:
    (here / "huge").write_text("or so")
    file = VolumeFile("huge", shutil.disk_usage(here).free + (1 << 40), "0" * 64)
    with writable(here / "v") as volume, pytest.raises(KctlError, match=r"do not fit: the volume has .* free"):
        push(volume, [file], sources(here / "huge"), False, lambda done, size: None)
    assert list((here / "v").iterdir()) == []


def test_ctrl_c_and_again(here: Path) -> None:
    """Stopped while another push has the file, so that it cannot end first; the next goes on with that very file."""
    content, data = os.urandom(2 * MIB), here / "local" / "data"
    (here / "big").write_bytes(content)
    data.mkdir(parents=True)
    file = Arriving("big", len(content), hashlib.sha256(content).hexdigest())
    append(data, file, 0, io.BytesIO(content), MIB)
    part = data / FOLDER / file.part
    begun = part.stat().st_ino
    command = [sys.executable, "-m", "kctl", "push", "big", "--to", "data", "--local"]
    with part.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
            process = subprocess.Popen(
                command,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored here
            )
            children, end = Path(f"/proc/{process.pid}/task/{process.pid}/children"), time.monotonic() + 30
            while not children.read_text():
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            said = process.communicate(timeout=30)[1]
            assert process.returncode == code, said
            stopped = "stopped; kctl push --to data big --local goes on from here\n"
            assert number == signal.SIGKILL or said.endswith(stopped)
    assert not (data / "big").exists() and part.stat().st_size == MIB
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"data/big\n"
    assert (data / "big").stat().st_ino == begun and (data / "big").read_bytes() == content


class Breaking:
    """A socket that breaks after so many bytes."""

    def __init__(self, inner: Any, budget: int) -> None:
        self.inner, self.budget = inner, budget

    def sendall(self, data: Any) -> None:
        self.inner.sendall(data[: max(0, self.budget)])
        self.budget -= len(data)
        if self.budget < 0:
            raise ConnectionResetError("cut")

    def makefile(self, mode: Any) -> Any:
        return self.inner.makefile(mode)

    def close(self) -> None:
        self.inner.close()


def test_a_connection_that_breaks_again_and_again(here: Path) -> None:
    content = os.urandom(5 * MIB)
    (here / "file").write_bytes(content)
    found, told, connections = sources(here / "file"), list[int](), list[socket.socket]()
    files = describe(found, PurePosixPath("file"), lambda done, size: None)
    with writable(here / "v") as whole:

        def connect() -> Wire:
            connections.append(whole._connect())  # type: ignore[arg-type]
            return Breaking(connections[-1], 2 * MIB)

        with contextlib.closing(Volume("v", connect)) as volume:
            pushed = push(volume, files, found, False, lambda done, size: told.append(done))
    assert pushed.fresh == 1 and (here / "v" / "file").read_bytes() == content and len(connections) >= 3
    assert told[-1] == len(content)


def test_a_file_that_changes_meanwhile_is_not_shown(here: Path) -> None:
    (here / "file").write_bytes(b"before")
    found = sources(here / "file")
    files = describe(found, PurePosixPath("file"), lambda done, size: None)
    (here / "file").write_bytes(b"after!")
    with writable(here / "v") as volume, pytest.raises(Damaged, match="changed meanwhile"):
        push(volume, files, found, False, lambda done, size: None)
    assert not (here / "v" / "file").exists()


@pytest.mark.parametrize("act", ["unlink", "fold"])
def test_a_file_here_that_cannot_be_read_is_no_broken_connection(here: Path, act: str) -> None:
    path = here / "file"
    path.write_bytes(b"read once")
    found = sources(path)
    files = describe(found, PurePosixPath("file"), lambda done, size: None)
    path.unlink()
    if act == "fold":
        path.mkdir()
    begun = time.monotonic()
    with writable(here / "v") as volume, pytest.raises(KctlError, match=rf"^{path}: .*; mend it and push again$"):
        push(volume, files, found, False, lambda done, size: None)
    assert time.monotonic() - begun < 10


def test_a_connection_that_ends_at_any_moment_leaves_no_traceback(here: Path) -> None:
    """Ctrl-C ends it; the receiver writes to the same terminal."""
    ours, theirs = socket.socketpair()
    words = [sys.executable, "-P", "-m", "trainer.receiver", "--root", str(here), "--connection", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    body = json.dumps({"files": []}).encode()
    ours.sendall(b"POST /begin HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    ours.close()  # nobody is there for the answer
    assert (process.communicate(timeout=30)[1], process.returncode) == (b"", 0)


def test_its_pod() -> None:
    """The claim as the profile says, writable, and nothing else; its name says all that it is."""
    cluster = profile(
        volumes={name: {"claim": name, "sub_path": f"team/{name}"} for name in ("models", "data", "runs")}
    )
    job = the_job(render(config(), cluster, None).manifests)
    pod = writer_pod(job, "/models", [{"spec": {"nodeName": "n1"}}])
    (container,) = pod["spec"]["containers"]
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    assert container["image"] == cluster.image and pod["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "n1"}
    assert container["volumeMounts"] == [{"name": "models", "mountPath": "/models", "subPath": "team/models"}]
    assert pod["spec"]["volumes"] == [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
    assert pod["spec"]["securityContext"] == replica["template"]["spec"]["securityContext"]
    assert pod["metadata"]["ownerReferences"] == [] and "kctl.dev/run" not in pod["metadata"]["labels"]
    names = {writer_pod(job, mount, [])["metadata"]["name"] for mount in ("/models", "/data", "/models")}
    assert len(names) == 2 and pod["metadata"]["name"] not in names


def test_a_claim_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clusters = here / "configs" / "clusters"
    clusters.mkdir(parents=True)
    (clusters / "default.yaml").write_text(
        "{image: x, volumes: {models: {claim: m, access_mode: ReadOnlyMany}, data: {claim: d}, runs: {claim: r}}}"
    )
    (here / "one").write_text("1")
    assert kctl(["push", "one", "--to", "models"]) == 2
    assert "claim m is ReadOnlyMany" in capsys.readouterr().err


def test_both_sides_count_alike(here: Path) -> None:
    (here / "file").write_bytes(bytes(range(256)) * 5000)
    (file,) = describe(sources(here / "file"), PurePosixPath("file"), lambda done, size: None)
    assert file.sha256 == hashlib.sha256((here / "file").read_bytes()).hexdigest()
