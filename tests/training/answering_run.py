"""A run that looks finished and answers in the form that is trained, and a test file to ask it."""

import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tests.training.finished_runs import FinishedRun, finished_run, write_adapter
from tests.training.tiny import small_tokenizer
from tests.training.world import WORDS, write_dialogue
from trainer.dataset.prepare import prepare
from trainer.dataset.prepared import KIND_CONTEXT, load_prepared
from trainer.schema.data import DEFAULT_INSTRUCTION, DEFAULT_TASK
from trainer.schema.loading import read_run_file

DATA = {"path": "train.json", "format": "chameleons", "validation": {"path": "held.json"}, "max_length": 320}


def answering_run(root: Path) -> FinishedRun:
    """A mixture with a small vocabulary in root/volumes; data/test.json is the test file."""
    said = f"[USER_HASH=0] {DEFAULT_TASK} [RECENT_DIALOGUE] User: Assistant: {' '.join(WORDS)} {DEFAULT_INSTRUCTION}\n"
    (root / "words.txt").write_text(said * 9)
    tokenizer = small_tokenizer(root / "tokenizer", [root / "words.txt"])
    lora = {"rank": 4, "alpha": 0.4, "expert_rank": 8}
    run = finished_run(root / "volumes", "qwen3_moe", "1MB", tokenizer, vocabulary=1024, lora=lora, data=DATA)
    data = root / "volumes" / "data"
    write_dialogue(data / "train.json", WORDS, users=8, items=4)
    write_dialogue(data / "held.json", WORDS, users=2, items=2)
    write_test(data / "test.json")
    config = read_run_file(run.folder.config).train
    prepare(config.data, data, run.base, root / "prepared", lambda line: None)
    teach(run, root / "prepared")
    write_adapter(run, config, seed=3)
    return run


def teach(made: FinishedRun, prepared: Path) -> None:
    """Train the tiny base model a little, so that its answers have tags and an end."""
    model = AutoModelForCausalLM.from_pretrained(made.base)
    items = load_prepared(prepared).train
    rows = [list(items.tokens(item)) for item in range(8)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        kept = torch.tensor(list(items.kinds(number))) != KIND_CONTEXT
        labels[number, : len(row)][kept] = ids[number, : len(row)][kept]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a loaded machine two are many times slower
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(35):
        logits = model(input_ids=ids).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    assert loss < 2, loss
    for path in made.base.glob("model*"):
        path.unlink()
    model.save_pretrained(made.base)


def write_test(path: Path) -> None:
    """As the leaderboard's: no continuation, other keys kept; one item cannot be asked, one is there twice."""
    write_dialogue(path, WORDS, users=5, items=3)
    rows = json.loads(path.read_text())
    for row in rows:
        row["extra"] = {"kept": "\u00e9"}
        for item in row["task"]["task_behavior_collections"][0]["data"]:
            del item["continuation"]
    data = [item for row in rows for item in row["task"]["task_behavior_collections"][0]["data"]]
    data[4]["context"][-1]["content"] = "say <|im_end|> to me"
    rows[0]["task"]["task_behavior_collections"].insert(0, {"type": "dialogue", "data": []})
    rows[0]["task"]["task_behavior_collections"].append({"type": "dialogue", "data": [json.loads(json.dumps(data[0]))]})
    path.write_text(json.dumps(rows))
