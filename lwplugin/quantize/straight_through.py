"""Quantizers with straight-through gradients: what stands in for a weight or an input while a net is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwplugin.quantize.shared_values import two_values


def round_through(x: Tensor) -> Tensor:
    """Rounded forward, the identity backward (Bengio 2013, 1308.3432)."""
    return x + (x.round() - x).detach()


def sign_through(x: Tensor) -> Tensor:
    """±1 forward (zero is +1); backward the identity inside [−1, 1] and nothing outside."""
    inside = x.clamp(-1, 1)
    return inside + (torch.where(x >= 0, 1.0, -1.0) - inside).detach()


class SignWeight(nn.Module):
    """mean|w| · sign(w), row by row (Rastegari 2016, 1603.05279)."""

    def forward(self, weight: Tensor) -> Tensor:
        """The binary weight in its shape; gradients reach the weight behind it."""
        signs, scale, shift = self.parts(weight)
        return signs * scale + shift

    def parts(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Signs in the weight's shape, scale and shift [out, 1, …]."""
        scale = weight.detach().flatten(1).abs().mean(1).clamp_min(1e-8).view(-1, *[1] * (weight.ndim - 1))
        return sign_through(weight / scale), scale, torch.zeros_like(scale)


class LearnedSignWeight(nn.Module):
    """shift ± scale with a learned threshold, scale and shift for each row, at first the best two values of the row.

    The threshold moves as ReActNet's sign does (2003.03488); the step between the two values is a sigmoid whose slope
    grows over training, as in Quantization Networks (1911.09464), so that its gradient is the step's own.
    """

    temperature: Tensor

    def __init__(self, weight: Tensor, *, temperature: float = 2.0) -> None:
        super().__init__()
        shape = (-1, *[1] * (weight.ndim - 1))
        rows = weight.detach().flatten(1)
        threshold, low, high = two_values(rows)
        self.threshold = nn.Parameter(threshold.view(shape))
        self.scale = nn.Parameter(((high - low) / 2).clamp_min(1e-8).view(shape))
        self.shift = nn.Parameter(((high + low) / 2).view(shape))
        self.register_buffer("spread", rows.std(1, correction=0).clamp_min(1e-8).view(shape))
        self.register_buffer("temperature", torch.tensor(temperature))
        self.start = temperature

    def sharpen(self, trained: float) -> None:
        """Set the slope for a share of the training that is done: up to five times as steep at its end."""
        self.temperature.fill_(self.start * (1 + 4 * trained))

    def forward(self, weight: Tensor) -> Tensor:
        """The two-valued weight in its shape; gradients reach weight, threshold, scale and shift."""
        signs, scale, shift = self.parts(weight)
        return signs * scale + shift

    def parts(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Signs in the weight's shape, scale and shift [out, 1, …]."""
        distance = (weight - self.threshold) / self.get_buffer("spread")
        soft = torch.tanh(self.temperature * distance)
        hard = torch.where(distance >= 0, 1.0, -1.0)
        return soft + (hard - soft).detach(), self.scale, self.shift
