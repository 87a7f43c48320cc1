"""Attention matrices: how strongly every token of a transformer's block looks at every other (TinyBERT, 1909.10351).

They are read where they arise, at the softmax or the fused attention, because only some models return them, and then
after the softmax and the dropout; TinyBERT follows the scores before both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lwplugin.data.batch import Inputs, call
from lwplugin.distill.matching import Shapes

Scores = dict[str, Tensor]
"""Block → scores before the softmax, float [n, heads, tokens, tokens]; below -100 where a token may not look."""

_MASKED, _LOWEST = -1e2, -1e4
"""TinyBERT's own border below which a score means a mask; what stands for -inf, so that no row is empty."""


@contextmanager
def attending(module: nn.Module, shapes: Mapping[str, torch.Size]) -> Iterator[Scores]:
    """Fills what it yields with the scores of the first self-attention in each named block while the module runs.

    ``shapes`` are of the blocks' outputs [n, tokens, c], of which n may change.
    """
    kept: Scores = {}
    inside: list[str] = []
    handles = []
    for name in shapes:
        block = module.get_submodule(name)
        handles.append(block.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        handles.append(block.register_forward_hook(lambda *_: _left(inside), always_call=True))
    try:
        with _Reading(kept, inside, {name: shape[1] for name, shape in shapes.items()}):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def attentive(module: nn.Module, names: Iterable[str], shapes: Shapes, inputs: Inputs) -> dict[str, int]:
    """Of the named layers those that attend, and their number of heads."""
    asked = {name: shapes[name] for name in names if len(shapes[name]) == 3}
    with torch.no_grad(), attending(module.eval(), asked) as found:
        call(module, inputs)
    return {name: scores.shape[1] for name, scores in found.items()}


def matrices_distance(given: Tensor, wanted: Tensor, real: Tensor | None = None) -> Tensor:
    """Squared error of the scores relative to the teacher's own, over pairs of tokens that may be looked at.

    Where the numbers of heads differ it is that of the mean over heads of the attention itself, after the softmax.
    ``real`` [n, tokens, 1] is 0 for padding, which neither looks nor is looked at.
    """
    seen = (given > _MASKED).all(1, keepdim=True) & (wanted > _MASKED).all(1, keepdim=True)
    if real is not None:
        pairs = real.unsqueeze(1) * real.transpose(1, 2).unsqueeze(1)
        seen = seen & (pairs > 0)
    if given.shape[1] != wanted.shape[1]:
        given, wanted = given.softmax(-1).mean(1, keepdim=True), wanted.softmax(-1).mean(1, keepdim=True)
    given, wanted = (values.masked_fill(~seen, 0) for values in (given, wanted))
    return (given - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


def _left(inside: list[str]) -> None:
    inside.pop()


class _Reading(TorchFunctionMode):
    """Keeps the first square scores that are computed inside of a block."""

    def __init__(self, kept: Scores, inside: list[str], tokens: Mapping[str, int]) -> None:
        super().__init__()
        self._kept, self._inside, self._tokens = kept, inside, tokens

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = self._inside[-1] if self._inside else None
        if name is not None and name not in self._kept and func in _READERS:
            scores = _READERS[func](*args, **kwargs)
            if scores is not None and scores.shape[-2:] == (self._tokens[name],) * 2:
                self._kept[name] = scores.float().clamp_min(_LOWEST)
        return func(*args, **kwargs)


def _of_softmax(values: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor | None:
    """What an attention that is written out hands to its softmax: [n, heads, tokens, tokens]."""
    return values if values.ndim == 4 and dim in (-1, 3) else None


def _of_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """What torch's fused attention does not show."""
    if query.ndim != 4:
        return None
    if enable_gqa:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores if attn_mask is None else _masked(scores, attn_mask, looks=True)


def _of_multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    *_: Any,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    **__: Any,
) -> Tensor | None:
    """``nn.MultiheadAttention`` once more, as far as its scores; query [tokens, n, c]."""
    if query.ndim != 3:
        return None
    weights = (q_proj_weight, k_proj_weight) if in_proj_weight is None else in_proj_weight.chunk(3)[:2]
    biases = (None, None) if in_proj_bias is None else in_proj_bias.chunk(3)[:2]
    q, k = (
        F.linear(values, weight, bias).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)
        for values, weight, bias in zip((query, key), weights, biases, strict=True)
    )
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if attn_mask is not None:
        mask = attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (len(scores), -1))
        scores = _masked(scores, mask, looks=False)
    if key_padding_mask is not None:
        scores = _masked(scores, key_padding_mask[:, None, None], looks=False)
    return scores


def _masked(scores: Tensor, mask: Tensor, *, looks: bool) -> Tensor:
    """Numbers are added; a bool that is ``looks`` says that a pair may be looked at."""
    if mask.dtype is not torch.bool:
        return scores + mask
    return scores.masked_fill(mask != looks, -torch.inf)


_READERS: dict[Any, Callable[..., Tensor | None]] = {
    F.softmax: _of_softmax,
    torch.softmax: _of_softmax,
    Tensor.softmax: _of_softmax,
    F.scaled_dot_product_attention: _of_fused,
    F.multi_head_attention_forward: _of_multi_head,
}
