"""The shapes a product of smaller layers can take, and how each is built from its factors.

A layer's kernel is [o, i, kh, kw] throughout: a linear layer is a convolution with a 1 × 1 kernel, a 1d convolution
one with a 1 × k kernel. An embedding's kernel is its table, transposed: [d, n, 1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

FormName = Literal["channel", "spatial", "tucker"]
Factors = tuple[Tensor, ...]
"""The kernels of the smaller layers in the order in which they run."""


@dataclass(frozen=True)
class Form:
    """One way to write a layer as a product.

    ``channel``: r outputs of the layer's own kernel, mixed by a 1 × 1 layer.
    ``spatial``: a vertical kernel to r channels, then a horizontal one (Jaderberg 2014, 1405.3866).
    ``tucker``: 1 × 1 to fewer inputs, the kernel between few channels, 1 × 1 to the outputs (Kim 2015, 1511.06530).
    """

    name: FormName
    ranks: tuple[int, ...]
    """One rank, or (inputs, outputs) for ``tucker``."""

    def shapes(self, kernel: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
        """Kernel shapes of the factors of a layer whose kernel is [o, i, kh, kw]."""
        o, i, kh, kw = kernel
        if self.name == "channel":
            (r,) = self.ranks
            return [(r, i, kh, kw), (o, r, 1, 1)]
        if self.name == "spatial":
            (r,) = self.ranks
            return [(r, i, kh, 1), (o, r, 1, kw)]
        inner, outer = self.ranks
        return [(inner, i, 1, 1), (outer, inner, kh, kw), (o, outer, 1, 1)]


def kernel_of(layer: nn.Module) -> Tensor:
    """The weight as [o, i, kh, kw], float64 on the CPU."""
    weight: Any = layer.weight.detach().double().cpu()
    if isinstance(layer, nn.Embedding):
        weight = weight.T
    if weight.dim() == 3:
        return weight[:, :, None, :]
    return weight.reshape(*weight.shape, *[1] * (4 - weight.dim()))


def joined(form: Form, factors: Factors) -> Tensor:
    """The kernel [o, i, kh, kw] that a product computes."""
    if form.name == "channel":
        right, left = factors
        return torch.einsum("or,rihw->oihw", left[:, :, 0, 0], right)
    if form.name == "spatial":
        right, left = factors
        return torch.einsum("orw,rih->oihw", left[:, :, 0, :], right[:, :, :, 0])
    first, core, last = factors
    return torch.einsum("ob,bahw,ai->oihw", last[:, :, 0, 0], core, first[:, :, 0, 0])


def built(layer: nn.Module, form: Form, factors: Factors, bias: Tensor | None) -> nn.Sequential:
    """The layers of a product, on the device and in the precision of ``layer``; only the last has a bias.

    ``bias`` [o], or None for none.
    """
    parts = _empty(layer, form, bias is not None)
    for part, factor in zip(parts, factors, strict=True):
        weight: Any = part.weight
        values = factor[:, :, 0, 0].T if isinstance(part, nn.Embedding) else factor
        weight.data.copy_(values.reshape(weight.shape))
    if bias is not None:
        parts[-1].bias.data.copy_(bias)
    product = nn.Sequential(*parts)
    product.train(layer.training)
    return product


def _empty(layer: nn.Module, form: Form, bias: bool) -> list[nn.Module]:
    old: Any = layer
    like: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(layer, nn.Embedding):
        (r,) = form.ranks
        first = nn.Embedding(layer.num_embeddings, r, padding_idx=layer.padding_idx, **like)
        return [first, nn.Linear(r, layer.embedding_dim, bias=bias, **like)]
    if isinstance(layer, nn.Linear):
        (r,) = form.ranks
        return [
            nn.Linear(layer.in_features, r, bias=False, **like),
            nn.Linear(r, layer.out_features, bias=bias, **like),
        ]
    place = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    conv: Any = type(layer)
    i, o = old.in_channels, old.out_channels
    if form.name == "channel":
        (r,) = form.ranks
        return [conv(i, r, **place, bias=False, **like), conv(r, o, 1, bias=bias, **like)]
    if form.name == "spatial":
        (r,) = form.ranks
        return [
            conv(i, r, **_along(place, 0), bias=False, **like),
            conv(r, o, **_along(place, 1), bias=bias, **like),
        ]
    inner, outer = form.ranks
    return [
        conv(i, inner, 1, bias=False, **like),
        conv(inner, outer, **place, bias=False, **like),
        conv(outer, o, 1, bias=bias, **like),
    ]


def _along(place: dict[str, Any], axis: int) -> dict[str, Any]:
    """Kernel, stride, padding and dilation of a convolution that acts along one axis only."""
    neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    return {
        name: tuple(value[a] if a == axis else neutral[name] for a in (0, 1)) for name, value in place.items()
    }
