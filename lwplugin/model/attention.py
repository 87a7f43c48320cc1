"""Multi-head attention whose heads can go: what ``nn.MultiheadAttention`` computes, with a width of its own inside.

``nn.MultiheadAttention`` ties the width of all heads together to the width of what it reads, so it cannot hold fewer
heads. :func:`open_heads` puts :class:`HeadAttention` in its place before a model is traced, and :func:`close_heads`
takes back what lost no head.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwplugin.data.batch import Inputs
from lwplugin.model.layers import register_layer
from lwplugin.model.stand_in import replace, stand_in

_M = TypeVar("_M", bound=nn.Module)


class HeadAttention(nn.Module):
    """``nn.MultiheadAttention`` by plain linear layers, ``num_heads`` × ``head_dim`` wide inside.

    Called as its model is: query [n, l, embed_dim], key [n, s, kdim], value [n, s, vdim] (length first unless
    ``batch_first``, or without n), masks as there; answers [n, l, out_dim], as wide as the query by default. The
    projections are ordinary layers, which low rank, quantization and repair treat like any others.
    """

    # What the fused kernels of torch's transformer layers ask before they would read packed weights.
    _qkv_same_embed_dim = False
    in_proj_bias = None
    in_proj_weight = None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        out_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        self.kdim, self.vdim, self.out_dim = kdim or embed_dim, vdim or embed_dim, out_dim or embed_dim
        self.dropout, self.bias, self.batch_first = dropout, bias, batch_first
        self.q_proj = nn.Linear(embed_dim, inner, bias=bias)
        self.k_proj = nn.Linear(self.kdim, inner, bias=bias)
        self.v_proj = nn.Linear(self.vdim, inner, bias=bias)
        self.out_proj = nn.Linear(inner, self.out_dim, bias=bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The attended values and, where asked for, the weights of each query over the keys."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            self._heads(project(x))
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            mask = _added(attn_mask, key_padding_mask, q)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            heads = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            # The causal hint counts where nothing else masks, as there.
            causal = is_causal and key_padding_mask is None
            mask = None if causal else _added(attn_mask, key_padding_mask, q)
            heads = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        out = self.out_proj(heads.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def fit_sizes(self) -> None:
        """Makes the number of heads and all widths agree with the projections after a cut."""
        self.num_heads = _ends(self.q_proj)[1] // self.head_dim
        self.embed_dim, self.kdim, self.vdim = (
            _ends(part)[0] for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        self.out_dim = _ends(self.out_proj)[1]

    def _heads(self, x: Tensor) -> Tensor:
        """[n, l, heads × head_dim] → [n, heads, l, head_dim]."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def _ends(projection: nn.Module) -> tuple[int, int]:
    """How wide a projection's input and its answer are, where it is one layer or a product of several."""
    parts: Any = projection if isinstance(projection, nn.Sequential) else [projection]
    return parts[0].weight.shape[1], parts[-1].weight.shape[0]


def _added(attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Both masks as one to add, broadcast over [n, heads, l, s]."""
    added = None
    if attn_mask is not None:
        added = _as_numbers(attn_mask, like)
        # One mask for all examples, or one for every head of every example.
        added = added[None, None] if added.dim() == 2 else added.unflatten(0, (like.shape[0], -1))
    if key_padding_mask is not None:
        padding = _as_numbers(key_padding_mask, like)[:, None, None, :]
        added = padding if added is None else added + padding
    return added


def _as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


_ARGUMENTS = ("embed_dim", "num_heads", "head_dim", "kdim", "vdim", "dropout", "bias", "batch_first")


def _arguments(layer: HeadAttention) -> dict[str, Any]:
    wide = {} if layer.out_dim == layer.embed_dim else {"out_dim": layer.out_dim}
    return {name: getattr(layer, name) for name in _ARGUMENTS} | wide


register_layer(HeadAttention, _arguments)


def open_heads(module: nn.Module, inputs: Inputs) -> dict[str, str]:
    """Puts a HeadAttention in place of every ``nn.MultiheadAttention`` that one can stand in for.

    All stay where the model then does not run or answers otherwise, as one does that reaches for the packed
    weights. Left as they are: subclasses, weights shared with other layers, hooks, ``add_bias_kv`` and
    ``add_zero_attn``. Answers with the names of those that stayed, and why.
    """
    shared = Counter(id(p) for layer in module.modules() for p in layer.parameters(recurse=False))
    names = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention)
    }
    whole = {name: reason for name, layer in names.items() if (reason := _why_whole(layer, module, shared))}
    opened: dict[int, nn.Module] = {
        id(layer): _opened(layer) for name, layer in names.items() if name not in whole
    }
    if not opened:
        return whole
    if not stand_in(module, opened, inputs):
        reason = "its heads stay: code around it reads its packed weights or answers otherwise without them"
        return whole | {name: reason for name in names if name not in whole}
    return whole


def close_heads(module: nn.Module) -> None:
    """Turns every HeadAttention that could be an ``nn.MultiheadAttention`` back into one."""
    replace(
        module,
        {
            id(layer): _closed(layer)
            for layer in module.modules()
            if type(layer) is HeadAttention
            and layer is not module
            and layer.num_heads * layer.head_dim == layer.embed_dim == layer.out_dim
            and all(type(part) is nn.Linear for part in layer.children())
        },
    )


def _why_whole(layer: nn.MultiheadAttention, module: nn.Module, shared: Counter[int]) -> str:
    """Why the heads of an attention cannot go; empty where they can."""
    if layer is module:
        return "its heads stay: it is the model itself, not a part of one"
    if type(layer) is not nn.MultiheadAttention:
        return f"its heads stay: {type(layer).__name__} may compute something else than nn.MultiheadAttention"
    if layer.bias_k is not None:
        return "its heads stay: add_bias_kv appends a key and a value of their own width"
    if layer.add_zero_attn:
        return "its heads stay: add_zero_attn attends to a position that is not among the inputs"
    if any(shared[id(p)] > 1 for p in layer.parameters()):
        return "its heads stay: its weights are shared with another layer"
    if layer._forward_hooks or layer._forward_pre_hooks or layer.out_proj._forward_pre_hooks:
        return "its heads stay: hooks on it would be lost"
    return ""


def _opened(layer: nn.MultiheadAttention) -> HeadAttention:
    made = HeadAttention(
        layer.embed_dim,
        layer.num_heads,
        layer.head_dim,
        kdim=layer.kdim,
        vdim=layer.vdim,
        dropout=layer.dropout,
        bias=layer.in_proj_bias is not None,
        batch_first=layer.batch_first,
    )
    return _filled(made, _weights(layer), layer)


def _closed(layer: HeadAttention) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(
        layer.embed_dim,
        layer.num_heads,
        dropout=layer.dropout,
        bias=layer.bias,
        kdim=layer.kdim,
        vdim=layer.vdim,
        batch_first=layer.batch_first,
    )
    found: dict[str, Tensor] = dict(layer.named_parameters())
    state: dict[str, Tensor] = {
        name: found[name] for name in ("out_proj.weight", "out_proj.bias") if name in found
    }
    parts = [found[f"{name}_proj.weight"] for name in "qkv"]
    if made.in_proj_weight is not None:
        state["in_proj_weight"] = torch.cat(parts)
    else:
        state |= {f"{name}_proj_weight": part for name, part in zip("qkv", parts, strict=True)}
    if layer.bias:
        state["in_proj_bias"] = torch.cat([found[f"{name}_proj.bias"] for name in "qkv"])
    return _filled(made, state, layer)


def _weights(layer: nn.MultiheadAttention) -> dict[str, Tensor]:
    packed = layer.in_proj_weight
    parts = (
        packed.chunk(3) if packed is not None else [getattr(layer, f"{name}_proj_weight") for name in "qkv"]
    )
    state: dict[str, Tensor] = {f"{name}_proj.weight": part for name, part in zip("qkv", parts, strict=True)}
    state["out_proj.weight"] = layer.out_proj.weight
    if layer.in_proj_bias is not None:
        biases = layer.in_proj_bias.chunk(3)
        state |= {f"{name}_proj.bias": part for name, part in zip("qkv", biases, strict=True)}
        state["out_proj.bias"] = layer.out_proj.bias
    return state


def _filled(made: _M, state: dict[str, Tensor], like: nn.Module) -> _M:
    first = next(like.parameters())
    made.to(first.device, first.dtype)
    made.load_state_dict({name: tensor.detach() for name, tensor in state.items()})
    made.requires_grad_(any(p.requires_grad for p in like.parameters()))
    return made.train(like.training)
