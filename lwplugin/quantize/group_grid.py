"""Grids of asymmetric groups: for every run of weights in a row, the scale and zero point that cost least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_SHRINKS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76, 0.72, 0.68, 0.64, 0.6, 0.54, 0.48)
_ROWS = 4096


@dataclass(frozen=True)
class GroupGrid:
    """``scale`` float16 and ``zero`` uint8, both [out, groups]; weight = scale · (code − zero)."""

    scale: Tensor
    zero: Tensor
    group_size: int
    levels: int
    """Largest code."""

    def spread(self, row: int) -> tuple[Tensor, Tensor]:
        """Scale and zero of every weight, float32 [out, row]."""
        wide = (t.float().repeat_interleave(self.group_size, 1)[:, :row] for t in (self.scale, self.zero))
        scale, zero = wide
        return scale, zero

    def nearest(self, rows: Tensor) -> Tensor:
        """Codes of the nearest grid points, uint8 [out, row]."""
        scale, zero = self.spread(rows.shape[1])
        return ((rows.float() / scale).round() + zero).clamp(0, self.levels).to(torch.uint8)


def group_grid(
    rows: Tensor, bits: int, group_size: int, *, importance: Tensor | None = None, search: bool = True
) -> GroupGrid:
    """Grids for a weight as rows [out, row].

    With ``search`` each group's range is clipped where that lowers Σ importance · (w − ŵ)²: both ends together,
    then each on its own. ``importance`` [out or 1, row] is the mean square of each weight's input; equal by default.
    """
    group_size = min(group_size, rows.shape[1])
    made = [
        _grid(part, bits, group_size, _part(importance, start), search)
        for start, part in zip(range(0, len(rows), _ROWS), rows.split(_ROWS), strict=True)
    ]
    return GroupGrid(
        torch.cat([scale for scale, _ in made]),
        torch.cat([zero for _, zero in made]),
        group_size,
        2**bits - 1,
    )


def _part(importance: Tensor | None, start: int) -> Tensor | None:
    if importance is None or len(importance) == 1:
        return importance
    return importance[start : start + _ROWS]


def _grid(
    rows: Tensor, bits: int, group_size: int, importance: Tensor | None, search: bool
) -> tuple[Tensor, Tensor]:
    levels = 2**bits - 1
    missing = -rows.shape[1] % group_size
    weight = F.pad(rows.detach().float(), (0, missing)).view(len(rows), -1, group_size)
    cost = torch.ones(1, rows.shape[1]) if importance is None else importance.float()
    cost = F.pad(cost.to(weight.device), (0, missing)).view(len(cost), -1, group_size)
    low, high = weight.amin(-1).clamp_max(0), weight.amax(-1).clamp_min(0)
    best = (high, low)
    least = torch.full_like(low, torch.inf)

    def consider(hi: Tensor, lo: Tensor) -> None:
        nonlocal best, least
        scale, zero = (t.float().unsqueeze(-1) for t in _affine(lo, hi, levels))
        rounded = ((weight / scale).round() + zero).clamp(0, levels).sub(zero) * scale
        error = ((rounded - weight).square() * cost).sum(-1)
        better = error < least
        least = torch.where(better, error, least)
        best = (torch.where(better, hi, best[0]), torch.where(better, lo, best[1]))

    consider(high, low)
    if search:
        for shrink in _SHRINKS[1:]:
            consider(high * shrink, low * shrink)
        for shrink in _SHRINKS[1::2]:
            consider(best[0], low * shrink)
        for shrink in _SHRINKS[1::2]:
            consider(high * shrink, best[1])
    scale, zero = _affine(best[1], best[0], levels)
    return scale, zero.to(torch.uint8)


def _affine(lo: Tensor, hi: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    # 6e-8 is the smallest float16 above zero: a group of zeros keeps a scale that can be divided by.
    scale = ((hi - lo) / levels).clamp(6e-8, 65504.0).half()
    return scale, (-lo / scale.float()).round().clamp(0, levels)
