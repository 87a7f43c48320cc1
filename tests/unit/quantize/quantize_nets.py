"""Small real nets with data, for the tests of quantization and export."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lwplugin.data import Data, from_arrays


class ResidualNet(nn.Module):
    """Convolutions with BatchNorm, a residual addition, a depthwise layer, a pooled head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width), nn.ReLU6()
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.inner_norm(self.inner(x)))
        x = self.depthwise(x)
        return self.head(x.mean((2, 3)))


def digits() -> Data:
    """The real 8×8 digits: [n, 1, 8, 8] in [0, 1]."""
    bunch = load_digits()
    x = (bunch.images[:, None] / 16.0).astype(np.float32)
    y = bunch.target.astype(np.int64)
    return from_arrays(
        train=(x[:1000], y[:1000]), calibration=(x[1000:1300], y[1000:1300]), test=(x[1300:], y[1300:])
    )


def trained(width: int = 16, epochs: int = 25) -> ResidualNet:
    """A ResidualNet trained on the digits in a few seconds."""
    torch.manual_seed(0)
    net = ResidualNet(width)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    train = digits().need("train")
    for epoch in range(epochs):
        for batch in train.batches(100, seed=epoch):
            loss = F.cross_entropy(net(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def untrained() -> ResidualNet:
    """For origins: the same structure, other weights."""
    return ResidualNet().eval()


class Tokens(nn.Module):
    """Two layers over tokens behind an embedding; some channels of the first one's input are thirty times larger."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.table = nn.Embedding(50, width)
        self.norm = nn.LayerNorm(width)
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, 8)
        with torch.no_grad():
            self.norm.weight[:3] *= 30
            self.query.weight[:, :3] /= 30
            self.value.weight[:, :3] /= 30

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.table(tokens))
        return self.out((self.query(x).sigmoid() * self.value(x)).mean(1))


def tokens() -> tuple[Tokens, Data]:
    """The net and random token sequences, int64 [n, 12]."""
    torch.manual_seed(0)
    x = torch.randint(50, (128, 12)).numpy()
    return Tokens().eval(), from_arrays(calibration=(x, None), test=(x[:32], None), duplicates="ignore")
