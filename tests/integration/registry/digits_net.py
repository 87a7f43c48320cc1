from __future__ import annotations

import torch
from torch import nn


class DigitsNet(nn.Module):
    """What a user's own module looks like: logged with code_paths, not installed anywhere."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width * 4, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = torch.max_pool2d(torch.relu(self.norm1(self.conv1(image))), 2)
        image = torch.max_pool2d(torch.relu(self.conv2(image)), 2)
        head: torch.Tensor = self.head(image.flatten(1))
        return head
