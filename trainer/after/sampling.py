"""Drawing answers token by token with transformers' generate, the same whatever else is in the batch.

Each answer has a stream of random numbers of its own, named by seed, item and sample; a draw takes one number. So
batches, ranks and restarts change nothing but the last bits of the scores.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from trainer.dataset.leaderboard import Asked
from trainer.schema.sampling import Sampling


class Draw(LogitsProcessor):
    """Chooses each row's next token and leaves it as the only possible one.

    starts: (rows,) where the prompt begins behind the padding on its left.
    """

    def __init__(self, sampling: Sampling, starts: Tensor, streams: Sequence[random.Random]) -> None:
        self._sampling, self._starts, self._streams = sampling, starts, streams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, tokens) and (rows, vocabulary) -> scores that are -inf but for the chosen token."""
        scores = self._penalised(input_ids, scores.float())
        chosen = self._drawn(scores) if self._sampling.temperature > 0 else scores.argmax(-1)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _penalised(self, ids: Tensor, scores: Tensor) -> Tensor:
        padding = torch.arange(ids.shape[1], device=ids.device) < self._starts[:, None]
        shown = torch.where(padding, ids[:, -1:], ids)
        picked, penalty = scores.gather(1, shown), self._sampling.repetition_penalty
        return scores.scatter(1, shown, torch.where(picked < 0, picked * penalty, picked / penalty))

    def _drawn(self, scores: Tensor) -> Tensor:
        likeliest, tokens = (scores / self._sampling.temperature).topk(min(self._sampling.top_k, scores.shape[1]))
        chances = likeliest.double().softmax(-1)
        before = chances.cumsum(-1) - chances
        chances = chances * (before < self._sampling.top_p)
        numbers = torch.tensor([stream.random() for stream in self._streams], device=scores.device, dtype=chances.dtype)
        reached = chances.cumsum(-1)
        place = (reached <= (numbers[:, None] * reached[:, -1:])).sum(-1, keepdim=True)
        return tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))[:, 0]


@torch.inference_mode()
def answers(model: Any, items: Sequence[Asked], sampling: Sampling, device: torch.device) -> list[list[list[int]]]:
    """For each item its samples, as the token ids that follow the prompt, with the end token where there is one."""
    rows = [item for item in items for _ in range(sampling.samples)]
    streams = [random.Random(f"{sampling.seed}:{item.key}:{n}") for item in items for n in range(sampling.samples)]
    longest, end = max(len(item.prompt) for item in rows), rows[0].end
    starts = torch.tensor([longest - len(item.prompt) for item in rows], device=device)
    ids = torch.tensor([[end] * (longest - len(item.prompt)) + list(item.prompt) for item in rows], device=device)
    shown = torch.arange(longest, device=device) >= starts[:, None]
    output = model.generate(
        input_ids=ids,
        attention_mask=shown.long(),
        generation_config=GenerationConfig(
            max_new_tokens=sampling.max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=end, use_cache=True
        ),
        logits_processor=LogitsProcessorList([Draw(sampling, starts, streams)]),
    )
    said = [_until(row, end) for row in output[:, longest:].tolist()]
    return [said[at : at + sampling.samples] for at in range(0, len(said), sampling.samples)]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens
