"""One world for all faults: a tiny model, data, volumes."""

import signal
from collections.abc import Iterator

import pytest

from tests.faults.lives import processes
from tests.training.tiny import SMALL_VOCABULARY, small_tokenizer, tiny_dense
from tests.training.world import World, make_world, send


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Ends whatever still runs in it."""
    with make_world(tmp_path_factory.mktemp("faults")) as world:
        (world.root / ".kctl" / "runs").mkdir()
        tokenizer = small_tokenizer(world.root / "tokenizer", [world.data / "train.jsonl"])
        tiny_dense(world.models / "dense", tokenizer=tokenizer, vocabulary=SMALL_VOCABULARY)
        yield world
        for pid, _, _ in processes(world):
            send(pid, signal.SIGKILL)
