"""Learned step sizes (LSQ, Esser 2019, 1902.08153; LSQ+, Bhalgat 2020, 2004.09576): grids trained with the weights.

A step is learned as the logarithm of what calibration found, an offset in shares of the grid. AdamW then moves all of
them by the same relative amount, which does for it what LSQ's gradient scale does for plain gradient descent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.quantize.layers import QuantLayer, Range, quantized_like
from lwplugin.quantize.scheme import AffineGrid
from lwplugin.quantize.straight_through import round_through
from lwplugin.quantize.weights import grouped


class LearnedGrid(nn.Module):
    """An asymmetric grid of 256 levels for activations, its step and offset learned; zero stays a level."""

    start: Tensor

    def __init__(self, bounds: Range) -> None:
        super().__init__()
        grid = AffineGrid.of_range(*bounds)
        self.levels = grid.high
        self.register_buffer("start", torch.tensor([grid.scale, float(grid.zero_point)]))
        self.growth = nn.Parameter(torch.zeros(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def grid(self) -> tuple[Tensor, Tensor]:
        """Step and zero point, [1] each; gradients reach what is learned."""
        zero = (self.start[1] + self.levels * self.shift).clamp(0, self.levels)
        return self.start[0] * self.growth.exp(), round_through(zero)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` on the grid; values outside it push its ends."""
        step, zero = self.grid()
        return (round_through(x / step + zero).clamp(0, self.levels) - zero) * step

    def bounds(self) -> Range:
        """The ends of the grid."""
        step, zero = (float(value) for value in self.grid())
        return -zero * step, (self.levels - zero) * step


class LearnedLayer(nn.Module):
    """A float layer that runs as its quantized one will, while its weights and steps are trained.

    ``scale`` float32 [out, 1] starts the steps of the weights, of which none is larger than ``limit``. Layers that
    read the same tensor share one ``grid``. Code around it finds the rounded ``weight``, and all else that it asks for
    (a stride, a bias) as the float layer has it.
    """

    scale: Tensor

    def __init__(self, layer: nn.Module, scale: Tensor, limit: int, grid: LearnedGrid) -> None:
        super().__init__()
        self.layer, self.grid, self.limit = layer, grid, limit
        self.register_buffer("scale", scale.detach().clone())
        self.growth = nn.Parameter(torch.zeros(len(scale), device=scale.device))

    @property
    def step(self) -> Tensor:
        """Of the weights, [out, 1]."""
        return self.scale * self.growth.exp().unsqueeze(1)

    @property
    def weight(self) -> Tensor:
        """What the quantized layer's weight will be; gradients reach the float one and the step."""
        weight: Any = self.layer.weight
        step = self.step.unsqueeze(-1)
        rounded = round_through((grouped(weight) / step).clamp(-self.limit, self.limit)) * step
        return rounded.view(weight.shape)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, x: Tensor) -> Tensor:
        """What the quantized layer will answer."""
        answer: Tensor = torch.func.functional_call(self.layer, {"weight": self.weight}, (self.grid(x),))
        return answer

    @torch.no_grad()
    def quantized(self, bits: int, outputs: Range) -> QuantLayer:
        """The integer layer it has become."""
        weight: Any = self.layer.weight
        integers = (grouped(weight) / self.step.unsqueeze(-1)).clamp(-self.limit, self.limit).round()
        made = quantized_like(self.layer, weight_bits=bits)
        made.set_weight(integers.to(torch.int8).view(weight.shape), self.step)
        made.set_ranges(self.grid.bounds(), outputs)
        return made
