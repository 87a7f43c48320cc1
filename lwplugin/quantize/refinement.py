"""A second look at rounded weights: each in turn takes its best code given all others, each group its best scale.

Compensated rounding decides a weight before those after it; here all are known. Cyclic coordinate descent on the
layer's squared error (Behdin 2023, 2309.01885), with the scales solved in closed form between the sweeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128
_HOLD = 1e-3
"""How strongly a scale holds on to what it was, as a share of the mean curvature of a row's scales."""


def refined(
    codes: Tensor,
    weight: Tensor,
    second_moment: Tensor,
    scale: Tensor,
    zero: Tensor,
    levels: int,
    *,
    group_size: int | None,
    damping: float = 0.01,
    rounds: int = 2,
) -> tuple[Tensor, Tensor]:
    """Codes, uint8 [g, o, k], and scale, float32 [g, o, k], of no larger error; on the CPU.

    Args:
        weight: [g, o, k].
        second_moment: E[xxᵀ] [g, k, k].
        scale: of every weight, [g, o, k], as is ``zero``; codes lie in [0, levels].
        group_size: weights of a row with one scale, a float16 number; None leaves the scales as they are.
        damping: added to the diagonal of the second moment, as a share of its mean.
    """
    moment = second_moment.float().cpu()
    mean = moment.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    moment = moment + damping * mean[:, None, None] * torch.eye(moment.shape[1])
    weight, scale, zero = (t.float().cpu() for t in (weight, scale, zero))
    found = codes.float()
    for _ in range(rounds):
        if group_size is not None:
            scale = _fitted(found - zero, weight, moment, scale, group_size)
        found = _swept(found, weight, moment, scale, zero, levels)
    return found.to(torch.uint8), scale


def _swept(codes: Tensor, weight: Tensor, moment: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    """One pass over the columns."""
    made = (codes - zero) * scale
    slope = (made - weight) @ moment
    curvature = moment.diagonal(dim1=1, dim2=2)
    found = codes.clone()
    width = weight.shape[-1]
    for start in range(0, width, _BLOCK):
        end = min(start + _BLOCK, width)
        changes = torch.zeros_like(weight[:, :, start:end])
        near, inner = slope[:, :, start:end].clone(), moment[:, start:end, start:end]
        for j in range(end - start):
            s, z, old = scale[:, :, start + j], zero[:, :, start + j], made[:, :, start + j]
            best = old - near[:, :, j] / curvature[:, None, start + j]
            code = ((best / s).round() + z).clamp(0, levels)
            change = (code - z) * s - old
            found[:, :, start + j], changes[:, :, j] = code, change
            near += change[:, :, None] * inner[:, None, j]
        slope += changes @ moment[:, start:end]
    return found


def _fitted(steps: Tensor, weight: Tensor, moment: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """The scale of each group that leaves least error with ``steps`` = code − zero, float16 numbers, spread."""
    width = weight.shape[-1]
    starts = range(0, width, group_size)
    old = scale[:, :, ::group_size]
    wanted = (weight @ moment) * steps
    curvature = steps.new_empty(*old.shape, len(starts))
    for i, start in enumerate(starts):
        span = slice(start, start + group_size)
        image = (steps[:, :, span] @ moment[:, span]) * steps
        curvature[:, :, i] = _group_sums(image, group_size)
    hold = _HOLD * curvature.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp_min(1e-20)
    curvature = curvature + torch.diag_embed(hold.expand_as(old))
    right = _group_sums(wanted, group_size) + hold * old
    new = torch.linalg.solve(curvature.double(), right.double()).float()
    # Codes that hardly say anything of their scale leave it as it was.
    new = torch.where((new > 0.5 * old) & (new < 2 * old), new, old).half().float()
    return new.repeat_interleave(group_size, -1)[:, :, :width]


def _group_sums(values: Tensor, group_size: int) -> Tensor:
    missing = -values.shape[-1] % group_size
    return torch.nn.functional.pad(values, (0, missing)).unflatten(-1, (-1, group_size)).sum(-1)
