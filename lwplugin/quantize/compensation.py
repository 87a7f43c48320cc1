"""Rounding with error compensation (Frantar 2022, 2210.17323): what one weight's rounding breaks, the next mend."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128


def compensated_codes(
    weight: Tensor,
    second_moment: Tensor,
    scale: Tensor,
    zero: Tensor,
    levels: int,
    *,
    damping: float = 0.01,
) -> Tensor:
    """Codes, uint8 [g, o, k], that keep the outputs for the inputs seen rather than the weights; on the CPU.

    Columns are rounded in the order of falling input energy; each rounding error is spread over the columns still
    to come by the inverse of the inputs' second moment.

    Args:
        weight: [g, o, k].
        second_moment: E[xxᵀ] [g, k, k].
        scale: of every weight, [g, o, k], as is ``zero``; codes lie in [0, levels].
        damping: added to the diagonal, as a share of its mean.
    """
    weight, second_moment, scale, zero = (t.cpu() for t in (weight, second_moment, scale, zero))
    energy = second_moment.diagonal(dim1=1, dim2=2)
    order = energy.argsort(dim=1, descending=True)
    k = weight.shape[-1]
    mean = energy.mean(1).clamp_min(1e-12)
    regular = second_moment.double() + (damping * mean)[:, None, None] * torch.eye(k, dtype=torch.float64)
    regular = regular.gather(1, order[:, :, None].expand_as(regular))
    regular = regular.gather(2, order[:, None, :].expand_as(regular))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(regular))
    upper = torch.linalg.cholesky(inverse, upper=True).float()

    columns = order[:, None, :].expand_as(weight)
    left = weight.float().gather(2, columns).clone()
    scale, zero = scale.float().gather(2, columns), zero.float().gather(2, columns)
    codes = torch.empty_like(left)
    for start in range(0, k, _BLOCK):
        end = min(start + _BLOCK, k)
        errors = torch.empty_like(left[:, :, start:end])
        for j in range(start, end):
            column, s, z = left[:, :, j], scale[:, :, j], zero[:, :, j]
            code = ((column / s).round() + z).clamp(0, levels)
            codes[:, :, j] = code
            error = (column - (code - z) * s) / upper[:, j, j, None]
            errors[:, :, j - start] = error
            left[:, :, j:end] -= error[:, :, None] * upper[:, None, j, j:end]
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    return torch.empty_like(codes).scatter_(2, columns, codes).to(torch.uint8)
