"""A log longer than its kubelet keeps: what was rotated away comes from the runs volume, every line once, in order."""

from pathlib import Path

import pytest

from tests.cluster.conftest import GIVEN
from tests.cluster.faults import LONG, held, kept, master, reading, shown
from tests.cluster.team import Team

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(GIVEN), reason="speaks for a process of this machine"),
]
FLOOD = 120_000
"""Lines of 100 bytes: 12 MiB, where a kubelet's default is 10."""


def test_lines_that_the_kubelet_has_rotated_away(team: Team) -> None:
    run = team.config("long", **LONG)
    pod, log = master(run), team.folder(run).log(1, 0)
    with reading(team, "submit", "long", "--follow") as submitted:
        with held(team, run, pod) as ranks:
            with Path(f"/proc/{ranks[0]}/fd/1").open("w") as said:  # as a library that warns at every batch does
                said.writelines(f"{number:06d} {'a warning ' * 9}\n" for number in range(FLOOD))
            team.until(lambda: f"{FLOOD - 1:06d} " in log.read_text()[-200:], "the flood is on the volume", 60)
            first = log.read_text().splitlines()[0]
            has = ("logs", pod, "--limit-bytes=200")
            team.until(lambda: first not in team.shell.kubectl(*has), "the kubelet rotates", 90)
            read = team.ok("logs", run)
            assert f"the kubelet of {pod} has only the end of its log" in read.err
            assert read.out.splitlines() == kept(team, run) and len(kept(team, run)) > FLOOD
            followed = team.start("logs", run, "--follow")
        out, err = followed.communicate(timeout=300)
        done = submitted.result()
    assert followed.returncode == done.code == 0, err
    assert out.splitlines() == shown(done) == kept(team, run)
