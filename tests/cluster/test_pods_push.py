"""kctl push onto the claims of a namespace that enforces restricted Pod Security, cut at any moment, by real pods."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import GIVEN
from tests.cluster.faults import reading, until_there
from tests.cluster.relay import Link, Relay, relayed
from tests.cluster.team import UID, Team
from trainer.arrival import FOLDER

pytestmark = [
    pytest.mark.skipif(bool(GIVEN), reason="looks into claims that are folders of this machine"),
    pytest.mark.timeout(600),
]
LINK = Link(bytes_per_second=20e6, delay=0.01)
MIB = 2**20
SIZE = 96 * MIB
"""5 s of the link."""


def _pods(team: Team) -> str:
    return team.shell.kubectl("get", "pods", "-l", "kctl.dev/role=writer", "-o", "name").strip()


def _gone(team: Team) -> None:
    team.until(lambda: not _pods(team), "the pod of the push is removed", 60)


def test_a_model_arrives_whole_and_once(team: Team) -> None:
    """A cache of a hub keeps a model as links to blobs; names may be anything that a folder can hold."""
    model = team.root / "cache" / "models--acme--tiny"
    (model / "blobs").mkdir(parents=True)
    (model / "blobs" / "0123").write_bytes(os.urandom(3 * MIB))
    snapshot = model / "snapshots" / "abcd"
    (snapshot / "größe und 名").mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    (snapshot / "größe und 名" / "-dash.json").write_text("{}")
    (snapshot / "empty").touch()
    pushed = team.ok("push", str(snapshot), "--to", "models/acme")
    assert pushed.out == "models/acme/tiny\n" and "3 files, 3.0 MiB, sha256 checked" in pushed.err
    there = team.volumes["models"] / "acme" / "tiny"
    for file in (file for file in snapshot.rglob("*") if file.is_file()):
        copy = there / file.relative_to(snapshot)
        assert copy.read_bytes() == file.read_bytes() and not copy.is_symlink() and copy.stat().st_uid == UID
    assert not (team.volumes["models"] / FOLDER).exists()
    _gone(team)
    assert "already there: 3 files" in team.ok("push", str(snapshot), "--to", "models/acme").err
    (snapshot / "empty").write_text("no more")
    refused = team.kctl("push", str(snapshot), "--to", "models/acme")
    assert refused.code == 1 and "acme/tiny/empty (there 0 B, here 7 B); nothing was changed" in refused.err
    assert (there / "empty").read_bytes() == b""
    assert "(1 of them sent)" in team.ok("push", str(snapshot), "--to", "models/acme", "--replace").err
    assert (there / "empty").read_text() == "no more"


def _part(team: Team) -> Path:
    """What is on its way to the data volume."""
    folder = team.volumes["data"] / FOLDER
    team.until(lambda: list(folder.glob("*.part")), "something is on its way", 120)
    (found,) = folder.glob("*.part")
    return found


def _cut(team: Team, number: int, at: int, kubeconfig: str) -> int:
    """A push that gets this signal once so many bytes are there; its exit code."""
    process = team.start("push", "big file.bin", "--to", "data/in", KUBECONFIG=kubeconfig)
    until_there(_part(team), at)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert number == signal.SIGKILL or "stopped; kctl push --to data/in 'big file.bin' goes on from here" in said
    return process.returncode


def test_a_push_goes_on_after_every_cut(team: Team) -> None:
    """Ctrl-C, kill -9, a connection that breaks, a pod that is killed: what came once is not sent again."""
    (team.root / "big file.bin").write_bytes(os.urandom(SIZE))
    target = team.volumes["data"] / "in" / "big file.bin"
    with relayed(team.shell, LINK) as (relay, text):
        kubeconfig = team.root / "slow.kubeconfig"
        kubeconfig.write_text(text)
        assert _cut(team, signal.SIGINT, 8 * MIB, str(kubeconfig)) == 130
        _gone(team)
        part = _part(team)
        same_file = part.stat().st_ino
        assert _cut(team, signal.SIGKILL, part.stat().st_size + 8 * MIB, str(kubeconfig)) == -signal.SIGKILL
        assert not target.exists() and _pods(team), "its pod ends by itself, and serves the next push"
        with reading(team, "push", "big file.bin", "--to", "data/in", KUBECONFIG=str(kubeconfig)) as pushed:
            _break_twice(team, part, relay)
            done = pushed.result(timeout=300)
    assert done.code == 0 and done.out == "data/in/big file.bin\n", done.err
    assert target.read_bytes() == (team.root / "big file.bin").read_bytes()
    assert target.stat().st_ino == same_file, "it was continued each time, never begun anew"
    _gone(team)


def _break_twice(team: Team, part: Path, relay: Relay) -> None:
    before = part.stat().st_size
    until_there(part, before + 8 * MIB)
    relay.cut()
    until_there(part, before + 16 * MIB)
    team.shell.kubectl("delete", _pods(team), "--grace-period=0", "--force")
    stands = part.stat().st_size
    time.sleep(0.5)
    assert part.stat().st_size < SIZE and part.stat().st_size - stands < 8 * MIB, "cut before its end"


def test_a_claim_that_nobody_can_mount(team: Team) -> None:
    team.profile("nowhere", volumes={"data": {"claim": "absent"}})
    team.config("lost", profile="nowhere")
    (team.root / "one.jsonl").write_text("{}")
    done = team.kctl("push", "one.jsonl", "--to", "data", "--config", "lost")
    assert done.code == 4 and 'persistentvolumeclaim "absent" not found: make that claim' in done.err, done.err
    _gone(team)
