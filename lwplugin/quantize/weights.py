"""Integer weights: one symmetric scale an output channel or group of inputs, clipped where it pays."""

from __future__ import annotations

from typing import Literal

import torch

WeightClip = Literal["max", "mse"]

_SHRINK_STEPS = 40
_SMALLEST_SHRINK = 0.4


def channel_scales(
    weight: torch.Tensor, limit: int, *, clip: WeightClip = "mse", group_size: int | None = None
) -> torch.Tensor:
    """Symmetric scales, float32 [out, groups] (one group a channel by default).

    ``max`` makes the largest weight representable; ``mse`` searches, for each group on its own, the clipped
    range with the least squared rounding error (40 steps down to 0.4 of the largest weight).
    """
    rows = grouped(weight.detach().double(), group_size)
    largest = rows.abs().amax(-1)
    best = largest.clone()
    if clip == "mse":
        least = torch.full_like(largest, float("inf"))
        for shrink in torch.linspace(1.0, _SMALLEST_SHRINK, _SHRINK_STEPS, dtype=torch.float64):
            scale = (largest * shrink / limit).clamp_min(1e-12).unsqueeze(-1)
            error = ((rows / scale).round().clamp(-limit, limit) * scale - rows).square().sum(-1)
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better, largest * shrink, best)
    return (best / limit).clamp_min(1e-12).float()


def round_weight(weight: torch.Tensor, scale: torch.Tensor, limit: int) -> torch.Tensor:
    """Nearest integers for ``scale`` [out, groups], int8 in the weight's shape."""
    rows = grouped(weight.detach().double(), weight[0].numel() // scale.shape[1])
    integers = (rows / scale.double().unsqueeze(-1)).round().clamp(-limit, limit)
    return integers.to(torch.int8).reshape(weight.shape)


def dequantize(integers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Float weight: one float32 product an element, the same arithmetic every runtime does."""
    rows = integers.to(scale.dtype).reshape(scale.shape[0], scale.shape[1], -1)
    return (rows * scale.unsqueeze(-1)).reshape(integers.shape)


def grouped(weight: torch.Tensor, group_size: int | None = None) -> torch.Tensor:
    """View of a weight [out, …] as [out, groups, group_size]."""
    return weight.reshape(weight.shape[0], -1, group_size or weight[0].numel())
