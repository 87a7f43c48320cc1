"""Streaming first and second moments of a layer's inputs and of the response it should give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 4096


@dataclass
class Moments:
    """Sums over rows in float64; memory depends on the layer's width only, never on the number of examples.

    Shapes, for a layer of g groups with k inputs and o outputs each: ``xx`` [g, k, k], ``xy`` [g, k, o],
    ``x`` [g, k], ``y`` and ``yy`` [g, o]. All are sums of differences from ``origin_x`` [g, k] and ``origin_y`` [g, o],
    the means of the first rows: where a mean is far above the deviation, sums of the values themselves would lose it.
    """

    xx: Tensor
    xy: Tensor
    x: Tensor
    y: Tensor
    yy: Tensor
    origin_x: Tensor
    origin_y: Tensor
    rows: int = 0
    known_origin: bool = False

    @classmethod
    def zeros(cls, groups: int, inputs: int, outputs: int) -> Moments:
        """Nothing seen yet."""

        def make(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64)

        return cls(
            make(inputs, inputs), make(inputs, outputs), make(inputs), make(outputs), make(outputs),
            make(inputs), make(outputs),
        )  # fmt: skip

    def beside(self) -> Moments:
        """Nothing seen yet, about the same origin: the sums of both can be put together."""
        groups, inputs, outputs = self.xy.shape
        made = Moments.zeros(groups, inputs, outputs)
        made.origin_x, made.origin_y, made.known_origin = self.origin_x, self.origin_y, self.known_origin
        return made

    def with_(self, other: Moments) -> Moments:
        """The moments of both's rows. ``other`` has this one's origin (``beside``), or one of the two saw nothing."""
        of = self if self.known_origin else other
        return Moments(
            self.xx + other.xx,
            self.xy + other.xy,
            self.x + other.x,
            self.y + other.y,
            self.yy + other.yy,
            of.origin_x,
            of.origin_y,
            self.rows + other.rows,
            known_origin=of.known_origin,
        )

    def without_responses(self) -> Moments:
        """The same inputs, no responses yet: those of the same rows, in the same order, go to ``add_responses``."""
        made = self.beside()
        made.xx, made.x, made.rows = self.xx, self.x, self.rows
        return made

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: ``x`` [rows, g, k] and the wanted responses ``y`` [rows, g × o].

        Products are taken in float32 over blocks of rows and summed in float64: the rounding of a block is far
        below the sampling noise, and it is several times faster than float64 products.
        """
        if not self.known_origin and len(x):
            self.known_origin = True
            self.origin_x = x[:_BLOCK].float().mean(0).double().cpu()
            self.origin_y = y[:_BLOCK].float().mean(0).double().cpu().reshape(self.origin_y.shape)
        for a, b in self._blocks(x, y):
            self.xx += (a.transpose(1, 2) @ a).double().cpu()
            self.x += a.sum(1).double().cpu()
            self._add_responses(a, b)
        self.rows += len(x)

    def add_responses(self, x: Tensor, y: Tensor) -> None:
        """Add what rows whose inputs are in already should answer; shapes as for ``add``."""
        for a, b in self._blocks(x, y):
            self._add_responses(a, b)

    def _add_responses(self, a: Tensor, b: Tensor) -> None:
        self.xy += (a.transpose(1, 2) @ b).double().cpu()
        self.y += b.sum(1).double().cpu()
        self.yy += b.double().square().sum(1).cpu()

    def _blocks(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of rows about the origin, inputs [g, rows, k] and responses [g, rows, o]."""
        y = y.reshape(len(y), *self.origin_y.shape)
        from_x, from_y = self.origin_x.to(x.device, torch.float32), self.origin_y.to(y.device, torch.float32)
        for start in range(0, len(x), _BLOCK):
            span = slice(start, start + _BLOCK)
            yield (x[span].float() - from_x).transpose(0, 1), (y[span].float() - from_y).transpose(0, 1)

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean input [g, k] and mean response [g, o]."""
        from_x, from_y = self._origin()
        return from_x + self.x / self.rows, from_y + self.y / self.rows

    def covariances(self, *, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
        """E[xxᵀ] [g, k, k], E[xyᵀ] [g, k, o] and E[y²] [g, o], about the means when ``centred``."""
        n = self.rows
        dx, dy = self.x / n, self.y / n
        xx = self.xx / n
        xx.baddbmm_(dx[:, :, None], dx[:, None, :], alpha=-1)
        xy = self.xy / n - dx[:, :, None] * dy[:, None, :]
        yy = self.yy / n - dy.square()
        if not centred:
            mx, my = self.means()
            xx.baddbmm_(mx[:, :, None], mx[:, None, :])
            xy = xy + mx[:, :, None] * my[:, None, :]
            yy = yy + my.square()
        return xx, xy, yy

    def _origin(self) -> tuple[Tensor, Tensor]:
        # What was subtracted: the origin as float32 has it.
        return self.origin_x.float().double(), self.origin_y.float().double()
