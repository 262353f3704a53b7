"""The exactness contract where a run goes on with other ranks and rows than its checkpoint was written with."""

from pathlib import Path

import pytest

from tests.training.test_exactness import HALF, Bench, dialogue, launch
from tests.training.tiny import SMALL_VOCABULARY, small_tokenizer, tiny_mixture
from trainer.dataset.prepare import prepare


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A mixture trained by one rank and by two; each resumed by the other number, and by as many with other rows."""
    bench = Bench(tmp_path_factory.mktemp("world-sizes"))
    root: Path = bench.root
    dialogue(root / "data.json")
    small_tokenizer(root / "tokenizer", [root / "data.json"])
    tiny_mixture(root / "mixture", tokenizer=root / "tokenizer", vocabulary=SMALL_VOCABULARY)
    plain, rows = bench.config("mixture"), bench.config("mixture", ops__max_tokens=256)
    prepare(plain.data, root, root / "mixture", root / "prepared", lambda text: None)
    places = {ranks: f"{root}/runs-whole-{ranks}/tiny-*/checkpoints/step-{HALF:06d}" for ranks in (1, 2)}
    launch(root, [bench.case("whole-1", plain)], 1)
    two = [bench.case("whole-2", plain), bench.case("1-to-2", plain, resumes=places[1])]
    launch(root, [*two, bench.case("1-to-2-rows", rows, resumes=places[1])], 2)
    launch(
        root, [bench.case(f"2-to-1{end}", train, resumes=places[2]) for end, train in (("", plain), ("-rows", rows))], 1
    )
    return bench


@pytest.mark.parametrize("resumed", ["1-to-2", "1-to-2-rows", "2-to-1", "2-to-1-rows"])
def test_a_resumed_run_equals_the_whole_one(bench: Bench, resumed: str) -> None:
    for whole in ("whole-1", "whole-2"):
        assert bench.losses(resumed) == pytest.approx(bench.losses(whole)[HALF:], rel=1e-6)
    assert bench.losses("whole-1")[-1] < 0.9 * bench.losses("whole-1")[0]
