"""Streaming first and second moments of a layer's inputs and of the response it should give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Sums over rows in float64; memory depends on the layer's width only, never on the number of examples.

    Shapes, for a layer of g groups with k inputs and o outputs each: ``xx`` [g, k, k], ``xy`` [g, k, o],
    ``x`` [g, k], ``y`` and ``yy`` [g, o].
    """

    xx: Tensor
    xy: Tensor
    x: Tensor
    y: Tensor
    yy: Tensor
    rows: int = 0

    @classmethod
    def zeros(cls, groups: int, inputs: int, outputs: int) -> Moments:
        """Nothing seen yet."""
        make = torch.zeros
        double = torch.float64
        return cls(
            make(groups, inputs, inputs, dtype=double),
            make(groups, inputs, outputs, dtype=double),
            make(groups, inputs, dtype=double),
            make(groups, outputs, dtype=double),
            make(groups, outputs, dtype=double),
        )

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: ``x`` [rows, g, k] and the wanted responses ``y`` [rows, g × o].

        Products are taken in float32 over blocks of rows and summed in float64: the rounding of a block is far
        below the sampling noise, and it is several times faster than float64 products.
        """
        groups = self.xx.shape[0]
        y = y.reshape(len(y), groups, -1)
        for start in range(0, len(x), 4096):
            a = x[start : start + 4096].transpose(0, 1).float()
            b = y[start : start + 4096].transpose(0, 1).float()
            self.xx += (a.transpose(1, 2) @ a).double().cpu()
            self.xy += (a.transpose(1, 2) @ b).double().cpu()
            self.x += a.sum(1).double().cpu()
            self.y += b.sum(1).double().cpu()
            self.yy += b.double().square().sum(1).cpu()
        self.rows += len(x)

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean input [g, k] and mean response [g, o]."""
        return self.x / self.rows, self.y / self.rows

    def covariances(self, *, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
        """E[xxᵀ] [g, k, k], E[xyᵀ] [g, k, o] and E[y²] [g, o], about the means when ``centred``."""
        n = self.rows
        xx, xy, yy = self.xx / n, self.xy / n, self.yy / n
        if centred:
            mx, my = self.means()
            xx = xx - mx[:, :, None] * mx[:, None, :]
            xy = xy - mx[:, :, None] * my[:, None, :]
            yy = yy - my.square()
        return xx, xy, yy
