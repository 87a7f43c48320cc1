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


class Block(nn.Module):
    """A residual block of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] → the same shape."""
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(x + y)


class Blocks(nn.Module):
    """Images [n, 1, 8, 8] → logits [n, 10], through residual blocks that can be dropped."""

    def __init__(self, width: int = 16, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(torch.relu(self.stem(images))).mean((2, 3)))
        return logits


class Kinds(nn.Module):
    """Images [n, 1, 8, 8] → logits [n, 10], through a volume, upwards and line by line."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.volume = nn.Conv3d(1, width, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.lines = nn.LSTM(8 * width, 3 * width, batch_first=True)
        self.head = nn.Linear(3 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.volume(images.unsqueeze(2))).squeeze(2)
        x = torch.relu(self.up(x)).transpose(1, 2).flatten(2)
        logits: Tensor = self.head(self.lines(x)[0].mean(1))
        return logits
