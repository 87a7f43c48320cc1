"""Least squares where each output may use only some of its inputs: the repair of weights that a mask zeroed."""

from __future__ import annotations

import torch
from torch import Tensor


def solve_on_support(
    xx: Tensor, xy: Tensor, start: Tensor, support: Tensor, *, steps: int = 100, tolerance: float = 1e-6
) -> Tensor:
    """Minimise wᵀ xx w − 2 wᵀ xy over the weights in ``support``; all others are zero.

    Conjugate gradients for all outputs at once, within the support: a product with ``xx`` a step, where a direct solve
    would factor a matrix for every output.

    Args:
        xx: [g, k, k], positive definite.
        xy, start: [g, k, o].
        support: bool [g, k, o].
    """
    mask = support.to(xx)
    # Scaled by the diagonal: inputs of very different variance would take many more steps.
    scale = xx.diagonal(dim1=1, dim2=2).clamp_min(1e-12).reciprocal()[:, :, None]
    weight = start * mask
    residual = (xy - xx @ weight) * mask
    direction = scale * residual
    size = (residual * direction).sum(1, keepdim=True)
    small = tolerance**2 * (xy * mask * scale * xy).sum(1, keepdim=True).clamp_min(1e-300)
    for _ in range(steps):
        if bool((size <= small).all()):
            break
        image = (xx @ direction) * mask
        length = size / (direction * image).sum(1, keepdim=True).clamp_min(1e-300)
        weight = weight + length * direction
        residual = residual - length * image
        renewed = (residual * scale * residual).sum(1, keepdim=True)
        direction = scale * residual + renewed / size.clamp_min(1e-300) * direction
        size = renewed
    return torch.where(support, weight, 0.0)
