"""Small convolutional nets, students and teachers."""

from __future__ import annotations

import torch
from torch import nn


def net(width: int = 8, classes: int = 10) -> nn.Sequential:
    """Images [n, 1, 8, 8] → logits [n, classes]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def drawn(seed: int = 1, **sizes: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return net(**sizes)
