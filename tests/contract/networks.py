"""A small residual network for the contract tests, importable by a process of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Images [n, 1, 8, 8] → logits [n, 10]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(2 * width)
        self.outer = nn.Conv2d(2 * width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(images)))
        y = torch.relu(self.inner_norm(self.inner(x)))
        logits: Tensor = self.head(torch.relu(x + self.outer(y)).mean((2, 3)))
        return logits
