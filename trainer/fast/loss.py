"""Hidden states without logits, and the cross entropy of the label positions alone.

Logits exist for CHUNK labels at a time, forward and backward: never a (tokens x vocabulary) tensor. The output
head is called as a module, so that DeepSpeed's hooks, a bias and a family's own scaling of logits all hold.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.schema.row_bytes import CHUNK

Head = Callable[[Tensor], Tensor]
"""(n, H) hidden states -> (n, vocabulary) logits."""


def causal_model(model: nn.Module) -> Any:
    """The transformers model inside PEFT's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward_hidden(model: nn.Module, input_ids: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Hidden states (T, H) after the last norm for one row input_ids (1, T); `inputs` from packed_inputs, or {} for
    a row of one item. Adapters act; the output head does not run."""
    decoder = causal_model(model).get_decoder()
    known = inputs if takes_positions(decoder) else {}
    hidden: Tensor = decoder(input_ids=input_ids, use_cache=False, **known).last_hidden_state[0]
    return hidden


def takes_positions(decoder: nn.Module) -> bool:
    """Whether a decoder can be told where the items of a row begin."""
    return "position_ids" in inspect.signature(decoder.forward).parameters


def output_head(model: nn.Module) -> Head:
    """The output head with the scale or soft cap of logits that the family's config asks for."""
    base = causal_model(model)
    config, head = base.config.get_text_config(), base.get_output_embeddings()
    cap, divisor = getattr(config, "final_logit_softcapping", None), getattr(config, "logits_scaling", None)
    factor = getattr(config, "logit_scale", None)
    if cap is not None:
        return lambda hidden: torch.tanh(head(hidden) / cap) * cap
    if divisor is not None:
        return lambda hidden: head(hidden) / divisor
    if factor is not None:
        return lambda hidden: head(hidden) * factor
    return head  # type: ignore[no-any-return]


def label_loss(
    hidden: Tensor, head: Head | Tensor, targets: Tensor, positions: Tensor, calls: int = 0
) -> tuple[Tensor, Tensor]:
    """(sum of cross entropy as an fp32 scalar with a graph, cross entropy of each label (N,) fp32 without one).

    hidden (T, H); label j has id targets[j] and is predicted at positions[j], both (N,). head: a module, a function
    or a weight (vocabulary, H). N may be 0. The head runs at least `calls` times: under ZeRO-3 each run of it is a
    collective, and ranks with fewer labels must make as many.
    """
    chosen = hidden.index_select(0, positions)
    losses = [
        checkpoint(_cross_entropy, part, head, labels, use_reentrant=False, preserve_rng_state=False)
        for part, labels in zip(chosen.split(CHUNK), targets.split(CHUNK), strict=True)
        if labels.numel()
    ]
    each = torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)
    total = each.sum() if losses else chosen.float().sum()
    for _ in range(calls - len(losses)):
        nothing = targets.new_zeros(1)
        idle = checkpoint(_cross_entropy, hidden[:1], head, nothing, use_reentrant=False, preserve_rng_state=False)
        total = total + 0.0 * idle.sum()
    return total, each.detach()


def head_calls(labels: int) -> int:
    """How often the head runs for a row of `labels` labels, at least once."""
    return max(1, -(-labels // CHUNK))


def _cross_entropy(hidden: Tensor, head: Head | Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, head) if isinstance(head, Tensor) else head(hidden)
    return F.cross_entropy(logits.float(), targets, reduction="none")
