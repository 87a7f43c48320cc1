"""A small convolutional network for 8×8 grey images: an ordinary model file."""

from __future__ import annotations

import torch
from torch import nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class DigitsCNN(nn.Module):
    """Images [n, 1, 8, 8] in [0, 1] → logits [n, 10]; 241 thousand parameters."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = block(1, width)
        self.wide = block(width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.deep = nn.Sequential(block(2 * width, 4 * width), block(4 * width, 4 * width))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10]."""
        logits: torch.Tensor = self.head(self.deep(self.pool(self.wide(self.stem(images)))))
        return logits
