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
    full = bench.config("mixture", method="full")
    kinds = {"": plain, "-rows": rows, "-full": full}

    def resumed(name: str, ranks: int) -> list[dict[str, str]]:
        whole = {end: f"whole-{ranks}{'-full' if end == '-full' else ''}" for end in kinds}
        places = {end: f"{root}/runs-{whole[end]}/tiny-*/checkpoints/step-{HALF:06d}" for end in kinds}
        return [bench.case(name + end, train, resumes=places[end]) for end, train in kinds.items()]

    def wholes(ranks: int) -> list[dict[str, str]]:
        return [bench.case(f"whole-{ranks}", plain), bench.case(f"whole-{ranks}-full", full)]

    launch(root, wholes(1), 1)
    launch(root, [*wholes(2), *resumed("1-to-2", 1)], 2)
    launch(root, resumed("2-to-1", 2), 1)
    return bench


@pytest.mark.parametrize("resumed", ["1-to-2", "1-to-2-rows", "1-to-2-full", "2-to-1", "2-to-1-rows", "2-to-1-full"])
def test_a_resumed_run_equals_the_whole_one(bench: Bench, resumed: str) -> None:
    end = "-full" if resumed.endswith("-full") else ""
    for whole in (f"whole-1{end}", f"whole-2{end}"):
        assert bench.losses(resumed) == pytest.approx(bench.losses(whole)[HALF:], rel=1e-6)
    assert bench.losses(f"whole-1{end}")[-1] < 0.9 * bench.losses(f"whole-1{end}")[0]
