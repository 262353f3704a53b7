"""How fast an adapter comes home: over a slow link, as fast as the link; without one, faster than by kubectl cp."""

import os
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.conftest import GIVEN, Measured
from tests.cluster.faults import until_there
from tests.cluster.relay import Link, Relay, relayed
from tests.cluster.team import Team
from trainer.adapters import verify_adapter
from trainer.schema.contract import RUNS_MOUNT

pytestmark = [
    pytest.mark.skipif(bool(GIVEN), reason="fills claims that are folders of this machine"),
    pytest.mark.timeout(600),
]
LINK = Link(bytes_per_second=100e6 / 8, delay=0.05)
"""100 Mbit/s, 50 ms one way: 100 ms until an answer."""
SIZE = 192 * 2**20
"""16 s of the link."""
ROUNDS = 3


@pytest.fixture(scope="module")
def run(team: Team) -> str:
    """A run that has ended, with a big file in its adapter."""
    name = team.config("one", epochs=1)
    team.ok("submit", "one", "--wait")
    team.enlarge(name, SIZE)
    team.ok("logs", name, "--tail", "0")  # its reader runs from here on
    return name


def _echo_then_send(server: socket.socket, count: int) -> None:
    """Answer one byte, then send `count`."""
    connection, _ = server.accept()
    with connection:
        connection.sendall(connection.recv(1))
        connection.recv(1)
        connection.sendall(bytes(count))


def test_the_relay_is_the_link_that_it_says(measured: Measured) -> None:
    count = 24 * 2**20
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo_then_send, args=(server, count), daemon=True).start()
        relay = Relay(server.getsockname(), LINK)
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            moments, got = [time.monotonic()], 0
            client.sendall(b"?")
            assert client.recv(1) == b"?"
            moments.append(time.monotonic())
            client.sendall(b"!")
            while data := client.recv(2**16):
                moments.append(time.monotonic())
                got += len(data)
        relay.close()
    handshake, answer = moments[1] - moments[0], moments[2] - moments[1]
    rate = (got - 2**14) / (moments[-1] - moments[2])
    measured(
        f"plain TCP through the relay: {rate * 8 / 1e6:.1f} Mbit/s, first answer {handshake:.3f} s, then {answer:.3f} s"
    )
    assert got == count and 0.96 < rate / LINK.bytes_per_second < 1.01
    assert 0.2 <= handshake < 0.3 and 0.1 <= answer < 0.2, "a handshake and an answer; an answer"


def test_a_slow_link_is_used_up(team: Team, run: str, measured: Measured) -> None:
    part = team.root / "slow" / f".{run}.part" / "big.bin"
    with relayed(team.shell, LINK) as (_, kubeconfig), ThreadPoolExecutor() as pool:
        (team.root / "slow.kubeconfig").write_text(kubeconfig)
        begun = time.monotonic()
        pulled = pool.submit(team.kctl, "pull", run, "--to", "slow", KUBECONFIG=str(team.root / "slow.kubeconfig"))
        first = until_there(part, 1)
        there = part.stat().st_size
        last = until_there(part, SIZE)
        done = pulled.result()
        whole = time.monotonic() - begun
    assert done.code == 0 and "sha256 checked" in done.err, done.err
    share = (SIZE - there) / (last - first) / LINK.bytes_per_second
    measured(
        f"{SIZE / 2**20:.0f} MiB over 100 Mbit/s and 50 ms each way: {share:.1%} of the link from the first byte to "
        f"the last, {SIZE / whole / LINK.bytes_per_second:.1%} with start, the other files and sha256 ({whole:.1f} s)"
    )
    assert share >= 0.95


def _seconds(act: Callable[[], object], folder: Path) -> float:
    """What `act` takes until the adapter is in `folder`, which is removed."""
    os.sync()  # nobody waits for what another has written
    begun = time.monotonic()
    act()
    took = time.monotonic() - begun
    verify_adapter(folder)
    shutil.rmtree(folder)
    return took


def test_a_pull_is_faster_than_kubectl_cp(team: Team, run: str, measured: Measured) -> None:
    """In turn, since the machine's speed drifts; kctl's sha256 counts."""
    remote, copied = f"{run}-reader:{RUNS_MOUNT}/{run}/adapter", team.root / "copied"
    took: dict[str, list[float]] = {"kctl pull": [], "kubectl cp": []}
    for _ in range(ROUNDS):
        took["kctl pull"].append(_seconds(lambda: team.ok("pull", run), team.root / "adapters" / run))
        took["kubectl cp"].append(_seconds(lambda: team.shell.kubectl("cp", remote, str(copied)), copied))
    medians = {tool: statistics.median(each) for tool, each in took.items()}
    for tool, each in took.items():
        rate = SIZE / medians[tool] / 1e6
        measured(f"{tool}: {medians[tool]:.2f} s of {', '.join(f'{one:.2f}' for one in each)}, {rate:.0f} MB/s")
    assert medians["kctl pull"] < medians["kubectl cp"]
