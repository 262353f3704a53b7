"""The launcher on one of several nodes."""

from pathlib import Path

import pytest

from tests.unit.launch_world import World, make_world, write_tokenizer

NCCL_SAYS = """vm:504:504 [0] NCCL INFO NET/IB : No device found.
vm:504:504 [0] NCCL INFO NET/Socket : Using [0]eth0:192.0.2.2<0>
vm:504:504 [0] NCCL INFO Initialized NET plugin Socket
vm:504:504 [0] NCCL INFO Using network Socket
"""
"""NCCL 2.28.9 on a machine without InfiniBand."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    write_tokenizer(world.root / "models" / "tiny")
    return world


def test_another_node_writes_its_log_and_nothing_else(world: World) -> None:
    nodes = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "run-worker-0"}
    for attempt in (1, 2):
        code, _ = world.launch("print('node 1 trains')", **nodes)
        assert code == 0 and "node 1 trains" in world.folder.log(attempt, 1).read_text()
    assert [path.name for path in world.folder.root.iterdir()] == ["logs"]


def test_between_nodes_it_is_known_what_nccl_talks_over(world: World) -> None:
    nodes = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "run-worker-0"}
    rank = f"""
import os
from pathlib import Path
from trainer.distributed import network
written = Path(os.environ["NCCL_DEBUG_FILE"].replace("%p", str(os.getpid())))
assert network() is None and os.environ["NCCL_DEBUG"] == "INFO"
written.write_text({NCCL_SAYS!r})
print("over", network())
"""
    code, output = world.launch(rank, **nodes)
    assert code == 0 and "over Socket" in output, output
    asked = 'import os; print("asked", os.environ["NCCL_DEBUG"], os.environ.get("NCCL_DEBUG_FILE"))'
    assert "asked WARN None" in world.launch(asked, **nodes, NCCL_DEBUG="WARN")[1], "somebody else asks already"
    assert "alone None" in world.launch('import os; print("alone", os.environ.get("NCCL_DEBUG"))')[1]
