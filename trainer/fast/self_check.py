"""Whether a model can be trained on packed rows: two items in one row must behave as each alone."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainer.errors import ConfigError
from trainer.fast.attention import Unsupported, packed_inputs
from trainer.fast.loss import causal_model, forward_hidden, output_head, takes_positions

_FIRST, _SECOND = 11, 13
"""Tokens of the two items that the self-check packs."""


def self_check(model: PreTrainedModel, device: torch.device, backward: bool = True) -> str | None:
    """None if two items packed into one row behave as each alone on this very model, else the reason.

    `backward` False leaves out the proof by gradients: under ZeRO-3 a backward outside a step upsets its buckets.

    The attention falls back to transformers' eager one where ours is not enough. ConfigError where the
    logits are not what the loss computes, so that the model could not be trained right at all.
    """
    training = model.training
    model.eval()
    try:
        _check_head(model, device)
        if not takes_positions(causal_model(model).get_decoder()):
            return f"{model.config.model_type} takes no position ids: items in one row cannot be told apart"
        return (_leak(model, device) if backward else None) or _difference(model, device)
    except ValueError as error:
        # how transformers' linear attention says that it needs another package to keep items apart
        return f"{model.config.model_type}: {error}"
    finally:
        model.train(training)


def _tokens(model: PreTrainedModel, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = min(1000, model.get_input_embeddings().num_embeddings)
    return torch.randint(0, size, (1, _FIRST + _SECOND), generator=generator).to(device)


def _check_head(model: PreTrainedModel, device: torch.device) -> None:
    """The loss computes head(hidden); the model's own forward must agree, with the attention that it then keeps."""
    ids = _tokens(model, device)[:, :_FIRST]
    with torch.no_grad():
        try:
            ours = output_head(model)(forward_hidden(model, ids, {})).float()
        except Unsupported:
            # Not sdpa: versions of it ignore what ours refuses (a soft cap, sinks).
            model.set_attn_implementation("eager")
            ours = output_head(model)(forward_hidden(model, ids, {})).float()
        own = model(input_ids=ids, use_cache=False).logits[0].float()
    error = (own - ours).norm() / own.norm()
    if not error < (1e-4 if model.dtype == torch.float32 else 2e-2):
        raise ConfigError(
            f"train.model: {model.config.model_type} does not compute its logits from the last hidden state "
            f"(relative difference {error:.1e}): this family cannot be trained here"
        )


def _leak(model: PreTrainedModel, device: torch.device) -> str | None:
    """Gradient of the second item's hidden states with respect to the first item's embeddings: exactly zero."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        hidden = forward_hidden(model, _tokens(model, device), packed_inputs([_FIRST, _SECOND], device))
    finally:
        hook.remove()
    noise = torch.randn(_SECOND, hidden.shape[-1], generator=torch.Generator().manual_seed(1)).to(device)
    (gradient,) = torch.autograd.grad((hidden[_FIRST:].float() * noise).sum(), seen[0])
    other, own = gradient[0, :_FIRST].abs().max(), gradient[0, _FIRST:].abs().max()
    if not own > 0:
        return f"{model.config.model_type} passes no gradient to its embeddings"
    return f"{model.config.model_type}: an item changes with the item before it in its row" if other > 0 else None


def _difference(model: PreTrainedModel, device: torch.device) -> str | None:
    """Hidden states packed against alone. Half precision: the median over tokens, since a router may flip a few."""
    ids = _tokens(model, device)
    with torch.no_grad():
        packed = forward_hidden(model, ids, packed_inputs([_FIRST, _SECOND], device)).float()
        alone = torch.cat(
            [
                forward_hidden(model, ids[:, :_FIRST], packed_inputs([_FIRST], device)),
                forward_hidden(model, ids[:, _FIRST:], packed_inputs([_SECOND], device)),
            ]
        ).float()
    errors = (packed - alone).norm(dim=1) / alone.norm(dim=1)
    half = model.dtype != torch.float32
    worst = max(part.median() if half else part.max() for part in (errors[:_FIRST], errors[_FIRST:]))
    if not worst < (0.1 if half else 1e-3):
        return f"{model.config.model_type}: packed differs from alone by {worst:.1e}"
    return None
