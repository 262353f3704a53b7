"""Held-out loss and sample answers. The subset is fixed by hash, the sums are the same at every world size."""

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from trainer.batches import Batch, build_batches
from trainer.dataset.prepared import KIND_ANSWER, KIND_CONTEXT, Items
from trainer.distributed import Ranks, summed
from trainer.fast.attention import NAME, sent
from trainer.fast.layers import uncompiled
from trainer.run import Run, autocast
from trainer.schema.packing import Packing, pack

TokenLoss = Callable[[Batch], torch.Tensor]
"""Cross entropy of every label of a row, (labels,), without a graph."""


def fixed_subset(items: Items, at_most: int) -> list[int]:
    """At most `at_most` items, chosen by the hash of their ids: the same whatever the order of the file."""
    ranked = sorted(range(len(items)), key=lambda i: hashlib.sha256(items.ids[i].encode()).digest())
    return sorted(ranked[:at_most])


def held_out_loss(
    token_loss: TokenLoss, items: Items, subset: list[int], packing: Packing, ranks: Ranks
) -> dict[str, float]:
    """Nats per label over the subset: `loss` of all labels, `answer_loss` of the answer's own tokens and
    `frame_loss` of what stands around it (tags, end token), which falls to nothing within a few steps.

    Where all items have users: `macro_loss`, the mean over users of each one's own loss, few items or many.
    """
    rows = pack(subset, [items.length(item) for item in subset], packing)
    numbers = {user: number for number, user in enumerate(dict.fromkeys(items.user(item) for item in subset))}
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    by_user = torch.zeros(2, len(numbers), dtype=torch.float64, device=ranks.device)
    batches = build_batches(items, rows, ranks.rank, packing, ranks.device)
    for members, batch in zip(rows[ranks.rank] or [[]], batches, strict=True):
        losses = token_loss(batch).double()
        answer = (batch.kinds == KIND_ANSWER).double()
        sums += torch.stack([losses @ answer, answer.sum(), losses @ (1 - answer), (1 - answer).sum()])
        ends = torch.tensor([items.length(item) for item in members]).cumsum(0)
        users = torch.tensor([numbers[items.user(item)] for item in members], dtype=torch.int64)
        item_of = torch.bucketize(batch.positions, sent(ends, ranks.device), right=True)
        by_user.index_add_(1, sent(users, ranks.device)[item_of], torch.stack([losses, torch.ones_like(losses)]))
    answer_sum, answers, frame_sum, frames, *rest = summed(torch.cat([sums, by_user.view(-1)]), ranks.device)
    found = {
        "loss": (answer_sum + frame_sum) / max(1.0, answers + frames),
        "answer_loss": answer_sum / answers if answers else math.nan,
        "frame_loss": frame_sum / frames if frames else math.nan,
    }
    own = [total / count for total, count in zip(rest[: len(numbers)], rest[len(numbers) :], strict=True) if count]
    return found if None in numbers or not own else found | {"macro_loss": sum(own) / len(own)}


def sample(run: Run) -> list[dict[str, Any]]:
    """Answers to the fixed prompts, through plain attention with a cache and layers that are not compiled."""
    chosen = run.subset[: run.train.ops.generate.items]
    if not chosen:
        return []
    own = run.model.config._attn_implementation
    if own == NAME:
        run.model.set_attn_implementation("sdpa")
    try:
        with uncompiled(run.model), autocast(run.train, run.ranks.device):
            return _sample_answers(run, chosen, run.train.ops.generate.max_new_tokens)
    finally:
        run.model.set_attn_implementation(own)


def _sample_answers(run: Run, chosen: list[int], max_new_tokens: int) -> list[dict[str, Any]]:
    """Greedy answers to the prompts of `chosen`, in their order: item, prompt_tail, reference, answer.

    Ranks share the prompts; under ZeRO-3, where every forward is a collective, each answers all of them.
    """
    tokenizer = _tokenizer(str(run.base))
    items, ranks = run.data.validation, run.ranks
    mine = chosen if run.full else chosen[ranks.rank :: ranks.world]
    own = []
    for item in mine:
        tokens, kinds = list(items.tokens(item)), list(items.kinds(item))
        start = next(place for place, kind in enumerate(kinds) if kind != KIND_CONTEXT)
        reference = [token for token, kind in zip(tokens, kinds, strict=True) if kind == KIND_ANSWER]
        answer = _continued(run.model, tokens[:start], tokens[-1], max_new_tokens, ranks.device)
        own.append(
            {
                "item": items.ids[item],
                "prompt_tail": tokenizer.decode(tokens[:start])[-400:],
                "reference": tokenizer.decode(reference).strip(),
                "answer": tokenizer.decode(answer, skip_special_tokens=True).strip(),
            }
        )
    gathered: list[list[dict[str, Any]]] = [[] for _ in range(ranks.world)]
    dist.all_gather_object(gathered, own)
    by_item = {record["item"]: record for part in gathered for record in part}
    return [by_item[items.ids[item]] for item in chosen]


@functools.cache
def _tokenizer(base: str) -> Any:
    from transformers import AutoTokenizer  # a large vocabulary takes a second to load: once a run, not once a time

    return AutoTokenizer.from_pretrained(base, trust_remote_code=False)


def _continued(model: Any, prompt: list[int], end: int, max_new_tokens: int, device: torch.device) -> list[int]:
    shown = torch.tensor([prompt], device=device)
    output = model.generate(
        input_ids=shown,
        attention_mask=torch.ones_like(shown),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    return list(output[0, len(prompt) :].tolist())
