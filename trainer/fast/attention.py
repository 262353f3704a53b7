"""Attention over packed rows, registered with transformers under one name, and the proof that a model can use it.

A packed row holds several items; each attends to itself alone, causally, and no (T x T) mask of the row is ever
built. CUDA in half precision runs torch's variable-length FlashAttention; everything else runs scaled dot product
attention item by item. What is not implemented is refused, and the model then keeps transformers' own attention.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import AttentionInterface

from trainer.errors import ConfigError
from trainer.fast.loss import causal_model, forward_hidden, output_head, takes_positions

NAME = "kctl"
"""What config._attn_implementation says where ours is in use."""

_HARMLESS = frozenset(
    {"cu_seq_lens_k", "max_length_k", "position_ids", "is_causal", "use_cache", "cache_position", "return_dict"}
    | {"output_hidden_states", "output_router_logits", "logits_to_keep"}
)
"""Keyword arguments of the models' forward that change nothing here."""


class Unsupported(NotImplementedError):
    """The model's attention asks for something that ours does not implement."""


def register(kernels: str) -> str:
    """Make the attention known to transformers; returns its name for the log. `kernels`: auto or reference."""
    fast = kernels == "auto" and torch.cuda.is_available()
    AttentionInterface.register(NAME, _varlen_attention if fast else _item_attention)
    # Nothing is registered with the mask interface: transformers then builds no mask and looks at no position ids.
    return "torch varlen" if fast else "sdpa item by item"


def use_packed_attention(model: PreTrainedModel, max_length: int) -> None:
    """Switch the model to ours unless its layers are known to need more (a window shorter than an item, dropout, a
    soft cap)."""
    config = model.config.get_text_config()
    window, dropout = getattr(config, "sliding_window", None), getattr(config, "attention_dropout", 0.0)
    bites = bool(window) and window < max_length
    if getattr(config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # sdpa ignores the cap without a word in transformers 5.17
    elif getattr(model, "_supports_attention_backend", False) and not bites and not dropout:
        model.set_attn_implementation(NAME)


def packed_inputs(lengths: list[int], device: torch.device) -> dict[str, Any]:
    """What a model's forward needs for a row of items of `lengths` tokens: position_ids (1, T) restarting at every
    item, cu_seq_lens_q/k (items + 1,) int32, max_length_q/k ints. ValueError for an empty item."""
    if not lengths or min(lengths) < 1:
        raise ValueError(f"a packed row needs items of at least one token, got lengths {lengths}")
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    bounds = torch.tensor([0, *lengths]).cumsum(0).int().to(device, non_blocking=True)
    return {
        "position_ids": positions.to(device, non_blocking=True),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


# --------------------------------------------------------------------------------------------------------------
# the two kernels


def _item_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """query (B, heads, T, D), key and value (B, kv heads, T, D) -> (B, T, heads, D); one sdpa call an item."""
    _check(module, query, key, attention_mask, arguments)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    bounds = arguments.get("cu_seq_lens_q")
    edges = [0, query.shape[2]] if bounds is None else bounds.tolist()
    if edges[-1] != query.shape[2]:
        raise ValueError(f"cu_seq_lens_q ends at {edges[-1]}, the row has {query.shape[2]} tokens")
    parts = [
        F.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            is_causal=True,
            scale=arguments.get("scaling"),
        )
        for start, end in itertools.pairwise(edges)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def _varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """As _item_attention, in one variable-length kernel where that takes the tensors."""
    bounds, longest = arguments.get("cu_seq_lens_q"), arguments.get("max_length_q")
    half = query.dtype in (torch.bfloat16, torch.float16) and query.dtype == value.dtype
    fits = query.is_cuda and half and query.shape[-1] == value.shape[-1] <= 256
    if not fits or bounds is None:
        return _item_attention(module, query, key, value, attention_mask, **arguments)
    from torch.nn.attention.varlen import varlen_attn

    _check(module, query, key, attention_mask, arguments)
    # torch 2.11 has no enable_gqa: kv heads are repeated, which every version takes.
    groups = query.shape[1] // key.shape[1]
    rows = (query[0], key[0].repeat_interleave(groups, 0), value[0].repeat_interleave(groups, 0))
    q, k, v = (tensor.transpose(0, 1).contiguous() for tensor in rows)
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=arguments.get("scaling"), window_size=(-1, 0))
    return out[None], None


def _check(
    module: nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None, arguments: dict[str, Any]
) -> None:
    """Unsupported for whatever would change the result and is not implemented."""
    known = _HARMLESS | {"scaling", "dropout", "sliding_window", "cu_seq_lens_q", "max_length_q"}
    longest = arguments.get("max_length_q") or query.shape[2]
    window = arguments.get("sliding_window")
    asked = [
        name for name, value in arguments.items() if name not in known and value is not None and value is not False
    ]
    if attention_mask is not None:
        asked.append("attention_mask")
    if arguments.get("dropout"):
        asked.append("dropout")
    if window and window < longest:
        asked.append(f"sliding_window {window} with items of {longest} tokens")
    if arguments.get("is_causal") is False or not getattr(module, "is_causal", True):
        asked.append("attention to later tokens")
    if query.shape[2] != key.shape[2]:
        asked.append("a cache")
    if query.shape[0] != 1:
        asked.append(f"{query.shape[0]} rows at once")
    if asked:
        raise Unsupported(f"attention {NAME!r} does not implement {', '.join(asked)}")


# --------------------------------------------------------------------------------------------------------------
# the self-check

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
