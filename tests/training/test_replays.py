"""Rows that are replayed need a GPU, as the rows of trainer.bench; here: what runs where they cannot be."""

from pathlib import Path

import torch

from tests.training.tiny import awaken, tiny_dense, train_config
from trainer.fast.attention import packed_inputs
from trainer.fast.loss import forward_hidden
from trainer.fast.replays import Replays
from trainer.lora import add_adapters
from trainer.model import load_model
from trainer.run import autocast

CPU = torch.device("cpu")


def test_rows_run_as_they_are_where_nothing_can_be_recorded(tmp_path: Path) -> None:
    train = train_config(lora={"rank": 4, "dropout": 0.0, "targets": ["all-linear"]})
    model = add_adapters(load_model(train, tiny_dense(tmp_path, family="qwen3", vocabulary=300), CPU), train).train()
    awaken(model)
    ids, inputs = torch.arange(40)[None], packed_inputs([25, 15], CPU)
    replays, said = Replays(model, lambda: autocast(train, CPU)), list[str]()
    expected = forward_hidden(model, ids, inputs)
    assert torch.equal(replays.hidden(ids, inputs), expected) and not said
    replays.begin([one for one in model.parameters() if one.requires_grad], 30, CPU, said.append)
    for _ in range(2):
        hidden = replays.hidden(ids, inputs)
        assert torch.equal(hidden, expected) and hidden.requires_grad
    assert len(said) == 1 and said[0].startswith("rows are not replayed (")
