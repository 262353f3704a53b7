"""Attention over packed rows, registered with transformers under one name.

A packed row holds several items; each attends to itself alone, causally, and no (T x T) mask of the row is ever
built. CUDA in half precision runs flash-attn 4 where it is installed and made for the GPU, else torch's own
variable-length FlashAttention; everything else runs scaled dot product attention item by item. What is not implemented
is refused, and the model then keeps transformers' own attention.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import AttentionInterface

from trainer.fast.packed_attention import flash_fits, packed_attention
from trainer.schema.speed import FLASH_WIDEST

NAME = "kctl"
"""What config._attn_implementation says where ours is in use."""
FLASH, VARLEN, ITEM_BY_ITEM = "flash-attn 4", "torch varlen", "sdpa item by item"
WIDEST = 256
"""Dimensions of a head that torch's kernel takes, forward and backward; flash-attn 4's takes FLASH_WIDEST."""

_HARMLESS = frozenset(
    {"cu_seq_lens_k", "max_length_k", "position_ids", "is_causal", "use_cache", "cache_position", "return_dict"}
    | {"output_hidden_states", "output_router_logits", "logits_to_keep"}
)
"""Keyword arguments of the models' forward that change nothing here."""


class Unsupported(NotImplementedError):
    """The model's attention asks for something that ours does not implement."""


def register(kernels: str) -> str:
    """Make the attention known to transformers; returns its name for the log. `kernels`: auto or reference."""
    name = chosen() if kernels == "auto" else ITEM_BY_ITEM
    AttentionInterface.register(NAME, functools.partial(_attention, kernel=name))
    # Nothing is registered with the mask interface: transformers then builds no mask and looks at no position ids.
    return name


@functools.cache
def chosen() -> str:
    """The fastest kernel that is here and that agrees with the plain one."""
    if not torch.cuda.is_available():
        return ITEM_BY_ITEM
    device = torch.device("cuda", torch.cuda.current_device())
    fitting = ([FLASH] if flash_fits(device) else []) + [VARLEN]
    return next((name for name in fitting if _agrees(name, device)), ITEM_BY_ITEM)


def _agrees(kernel: str, device: torch.device) -> bool:
    """Output and gradients of three items in bf16, within 2 % of the plain kernel's. Not installed whole: False."""
    generator = torch.Generator(device).manual_seed(0)
    bounds = torch.tensor([0, 5, 135, 196], dtype=torch.int32, device=device)
    sizes = [(1, heads, 196, 128) for heads in (8, 2, 2, 8)]
    q, k, v, given = (torch.randn(size, device=device, generator=generator).bfloat16() for size in sizes)
    arguments = {"cu_seq_lens_q": bounds, "max_length_q": 130, "scaling": 0.1}

    def results(name: str) -> list[Tensor]:
        free = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
        out, _ = _attention(nn.Identity(), free[0], free[1], free[2], None, kernel=name, **arguments)
        return [out, *torch.autograd.grad(out, free, given.transpose(1, 2))]

    try:
        pairs = list(zip(results(kernel), results(ITEM_BY_ITEM), strict=True))
    except (ImportError, RuntimeError, TypeError, AttributeError):
        return False  # another version of a beta, or a GPU that it was not built for
    return all(bool((ours.float() - plain.float()).norm() < 0.02 * plain.float().norm()) for ours, plain in pairs)


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
    bounds = sent(torch.tensor([0, *lengths]).cumsum(0).int(), device)
    return {
        "position_ids": sent(positions, device),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on its way to `device`. From memory that can be swapped out, a GPU would finish its work first."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# --------------------------------------------------------------------------------------------------------------
# the kernels: query (1, heads, T, D), key and value (1, kv heads, T, D) -> (1, T, heads, D)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    kernel: str,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """`kernel`, where it takes the tensors, else item by item."""
    _check(module, query, key, attention_mask, arguments)
    bounds, longest, scale = (arguments.get(name) for name in ("cu_seq_lens_q", "max_length_q", "scaling"))
    if kernel == FLASH and query.shape[-1] > FLASH_WIDEST:
        kernel = VARLEN
    if kernel == ITEM_BY_ITEM or bounds is None or not _fits(query, value):
        return _item_by_item(query, key, value, bounds, scale), None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if kernel == FLASH:
        out = packed_attention(q, k, v, bounds, longest, query.shape[-1] ** -0.5 if scale is None else scale)
    else:
        out = _varlen(q, k, v, bounds, longest, scale)
    return out[None], None


def _fits(query: Tensor, value: Tensor) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16) and query.dtype == value.dtype
    return query.is_cuda and half and query.shape[-1] == value.shape[-1] <= WIDEST


def _item_by_item(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor | None, scale: float | None) -> Tensor:
    """One sdpa call an item."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    edges = [0, query.shape[2]] if bounds is None else bounds.tolist()
    if edges[-1] != query.shape[2]:
        raise ValueError(f"cu_seq_lens_q ends at {edges[-1]}, the row has {query.shape[2]} tokens")
    parts = [
        F.scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], is_causal=True, scale=scale
        )
        for start, end in itertools.pairwise(edges)
    ]
    return torch.cat(parts, 2).transpose(1, 2)


def _varlen(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scale: float | None) -> Tensor:
    """torch's FlashAttention 2. torch 2.11 has no enable_gqa: there kv heads are repeated."""
    varlen, grouped = _torch_varlen()
    if not grouped:
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], 1) for tensor in (k, v))
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    more = {"enable_gqa": True} if grouped else {}
    out: Tensor = varlen(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=(-1, 0), **more)
    return out


@functools.cache
def _torch_varlen() -> tuple[Callable[..., Tensor], bool]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, "enable_gqa" in inspect.signature(varlen_attn).parameters


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
