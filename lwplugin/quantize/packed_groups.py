"""Packed layers of asymmetric groups: with codes found elsewhere, or with each weight rounded to the nearest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lwplugin.model.weight_layout import rows_of
from lwplugin.quantize.encodings import Groups
from lwplugin.quantize.group_grid import GroupGrid, group_grid
from lwplugin.quantize.packed import PackedLayer, packed_like
from lwplugin.quantize.packing import pack_codes
from lwplugin.quantize.weights import WeightClip, channel_scales, round_weight

_MIDDLE = 128


@torch.no_grad()
def in_groups(layer: Any, grid: GroupGrid, codes: Tensor) -> PackedLayer:
    """The float ``layer`` with its weight as ``codes``, uint8 [out, row], on ``grid``."""
    bits = grid.levels.bit_length()
    made = packed_like(layer, Groups(bits, grid.group_size))
    made.store(codes=pack_codes(codes, bits), scale=grid.scale, zero=pack_codes(grid.zero, bits))
    return made


@torch.no_grad()
def symmetric_rows(layer: Any, limit: int, clip: WeightClip) -> PackedLayer:
    """8 bits with one scale an output and no zero point, whole numbers up to ``limit``."""
    rows = rows_of(layer).flatten(1)
    scale = channel_scales(rows, limit, clip=clip).clamp(6e-8, 65504.0).half()
    codes = round_weight(rows, scale.float(), limit).to(torch.int16) + _MIDDLE
    zero = torch.full_like(scale, _MIDDLE, dtype=torch.uint8)
    return in_groups(layer, GroupGrid(scale, zero, rows.shape[1], 255), codes)


@torch.no_grad()
def nearest_in_groups(layer: Any, bits: int, group_size: int | None = None) -> PackedLayer:
    """One grid an output, or row of a table, or one for every ``group_size`` numbers of it."""
    rows = rows_of(layer).flatten(1)
    grid = group_grid(rows, bits, group_size or rows.shape[1])
    return in_groups(layer, grid, grid.nearest(rows))
