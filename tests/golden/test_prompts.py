"""The full text of a training item, chat frame and end token included, for all seven sets of blocks.

`UPDATE_GOLDEN=1 pytest tests/golden/test_prompts.py` writes the files; read the difference before you commit it.
"""

import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from trainer.dataset.prepare import prepare
from trainer.dataset.prepared import Prepared, load_prepared, show_item
from trainer.dataset.tokenizer import load_tokenizer
from trainer.schema.data import Data, Prompt

FOLDER = Path(__file__).parent / "prompts"
BLOCKS = ("profile", "history", "context")
ABLATIONS = [blocks for count in (1, 2, 3) for blocks in combinations(BLOCKS, count)]
HEADERS = {"profile": "[USER_PROFILE]", "history": "[HISTORY]", "context": "[RECENT_DIALOGUE]"}
ITEM = 4
"""The item that is shown: Marlow's last one in training, with history before it."""


@pytest.mark.parametrize("blocks", ABLATIONS, ids="_and_".join)
def test_prompt(blocks: tuple[str, ...], tmp_path: Path, qwen3_folder: Path) -> None:
    prepared = prepare_records(blocks, tmp_path, qwen3_folder)
    text = load_tokenizer(qwen3_folder).decode(prepared.train.tokens(ITEM).tolist(), skip_special_tokens=False)
    shown = show_item(prepared.train, ITEM, qwen3_folder)
    assert shown.replace("<<frame|", "").replace("<<answer|", "").replace(">>", "") == text
    golden = FOLDER / f"{'_and_'.join(blocks)}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(shown + "\n", encoding="utf-8")
    assert shown + "\n" == golden.read_text(encoding="utf-8")
    for block, header in HEADERS.items():
        assert (header in text) == (block in blocks)


def prepare_records(blocks: tuple[str, ...], folder: Path, model: Path) -> Prepared:
    data = Data.model_validate(
        {
            "path": "records.json",
            "format": "chameleons",
            "prompt": {"blocks": blocks},
            "validation": {"path": "held_out.json"},
        }
    )
    prepare(data, FOLDER, model, folder / "prepared", print)
    return load_prepared(folder / "prepared")


def test_every_ablation_has_one_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {"_and_".join(blocks) for blocks in ABLATIONS}


def test_the_order_of_the_blocks_does_not_matter(tmp_path: Path, qwen3_folder: Path) -> None:
    texts = []
    for number, blocks in enumerate((BLOCKS, BLOCKS[::-1])):
        (tmp_path / str(number)).mkdir()
        items = prepare_records(blocks, tmp_path / str(number), qwen3_folder).train
        texts.append([items.tokens(index).tolist() for index in range(len(items))])
    assert texts[0] == texts[1]


def test_what_is_asked_for_survives_every_ablation(tmp_path: Path, qwen3_folder: Path) -> None:
    tokenizer: Any = load_tokenizer(qwen3_folder)
    for number, blocks in enumerate(ABLATIONS):
        (tmp_path / str(number)).mkdir()
        items = prepare_records(blocks, tmp_path / str(number), qwen3_folder).train
        texts = [
            tokenizer.decode(items.tokens(index).tolist(), skip_special_tokens=False) for index in range(len(items))
        ]
        for text in texts:
            assert f"[TASK]\n{Prompt().task}\n\n" in text and "[USER_HASH=" in text
            assert Prompt().instruction in text
        assert sum("[QUERY]\nThe Long Pier (1951):" in text for text in texts) == 1
        assert sum("[QUERY]\nDo you keep your promises?" in text for text in texts) == 1
