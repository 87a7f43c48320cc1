"""A small transformer encoder for tests of heads and layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention [n, tokens, width] with ``heads`` heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = (
            layer(x).view(n, tokens, self.heads, self.head_width).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) / self.head_width**0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e4)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, self.heads * self.head_width)
        answer: Tensor = self.out(mixed)
        return answer


class Layer(nn.Module):
    """One post-norm transformer layer; returns a tuple, as many do."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, None]:
        hidden = self.norm1(hidden + self.attention(hidden, attention_mask))
        return self.norm2(hidden + self.down(torch.relu(self.up(hidden)))), None


class Encoder(nn.Module):
    """Token ids [n, tokens] → logits [n, 3]."""

    def __init__(self, width: int = 32, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, width)
        self.layers = nn.ModuleList([Layer(width, heads) for _ in range(layers)])
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.embed(ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=attention_mask)[0]
        if attention_mask is not None:
            shares = attention_mask / attention_mask.sum(1, keepdim=True)
            logits: Tensor = self.head((hidden * shares[..., None]).sum(1))
        else:
            logits = self.head(hidden.mean(1))
        return logits


class Block(nn.Module):
    """A residual block of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] → the same shape."""
        return torch.relu(x + self.conv2(torch.relu(self.norm1(self.conv1(x)))))


class Cnn(nn.Module):
    """Digits [n, 1, 8, 8] → logits [n, 10] through residual blocks."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(torch.relu(self.stem(images))).mean((2, 3)))
        return logits
