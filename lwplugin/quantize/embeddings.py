"""Embedding tables in 8 bits, row by row, beside layers that compute in integers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lwplugin.quantize.encodings import Groups
from lwplugin.quantize.group_grid import group_grid
from lwplugin.quantize.packed import PackedEmbedding, packed_like
from lwplugin.quantize.packing import pack_codes


@torch.no_grad()
def packed_embedding(table: nn.Embedding, *, bits: int = 8, group_size: int | None = None) -> PackedEmbedding:
    """The table with one grid a row, or one for every ``group_size`` numbers of it."""
    rows: Any = table.weight.detach()
    grid = group_grid(rows, bits, group_size or rows.shape[1])
    made = packed_like(table, Groups(bits, grid.group_size))
    made.store(codes=pack_codes(grid.nearest(rows), bits), scale=grid.scale, zero=pack_codes(grid.zero, bits))
    assert isinstance(made, PackedEmbedding)
    return made
