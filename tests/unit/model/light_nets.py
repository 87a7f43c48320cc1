"""Small models that the tests build by import path, in this process and in fresh ones."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.nn import functional

from lwplugin.model import LightModel


class SameConv(nn.Conv2d):
    """A subclass of a listed layer: kept as what it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias, groups=self.groups)


class Block(nn.Module):
    def __init__(self, width: int, index: int) -> None:
        super().__init__()
        self.index = index
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.down(functional.gelu(self.up(x))) * (1 + self.index)


class Net(nn.Module):
    """A bit of everything: subclass, raw parameters, buffers of all kinds, sharing, an optional part."""

    def __init__(self, width: int = 8, blocks: int = 3) -> None:
        super().__init__()
        self.heads = 2
        self.sizes = (width, 4)
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.same = SameConv(width, width, 3, bias=False)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList([Block(width, i) for i in range(blocks)])
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.again = self.norm
        self.head = nn.Linear(width, 4)
        self.unused: nn.Module | None = nn.Linear(2, 2)
        self.register_buffer("positions", torch.arange(17.0).expand(1, 17), persistent=False)
        self.offset = torch.full((width,), 0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.same(self.stem(x)).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1) + self.positions[..., None] * 0.01
        for block in self.blocks:
            y = block(y)
        y = self.norm(y + self.attention(y, y, y, need_weights=False)[0] + self.offset)
        return self.head(self.again(y[:, 0]))


class Tied(nn.Module):
    """Embedding and decoder share their weight."""

    def __init__(self, words: int = 11, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.decode = nn.Linear(width, words)
        self.decode.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decode(self.rnn(self.embed(ids))[0])


class Shuffled(nn.Module):
    """Decides something at random that is no tensor: every build is another model."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.order = torch.randperm(64).tolist()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x[:, self.order])


class RandomFeatures(nn.Module):
    """Random numbers in a buffer that is not saved by torch, and in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("basis", torch.randn(4, 4), persistent=False)
        self.phase = torch.rand(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.sin(x @ self.basis + self.phase))


class ExtraState(nn.Linear):
    def get_extra_state(self) -> object:
        return {"step": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def net(width: int = 8, blocks: int = 3) -> Net:
    torch.manual_seed(0)
    return Net(width, blocks)


def wide(layers: int = 4, width: int = 64) -> nn.Module:
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])


def not_a_module() -> int:
    return 3


def answer_digest(module: nn.Module, x: torch.Tensor) -> str:
    with torch.no_grad():
        output = module(x)
    return hashlib.sha256(output.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def pruned(light: LightModel) -> nn.Module:
    """Every kind of change at once, with random weights in the new layers."""
    torch.manual_seed(1)
    net = light.copy_module()
    assert isinstance(net, Net)
    net.stem[0] = nn.Conv2d(3, 5, 3, padding=1)
    net.stem[1] = nn.BatchNorm2d(5)
    net.same.in_channels = 5
    net.same.weight = nn.Parameter(net.same.weight[:, :5].clone())
    net.same.bias = nn.Parameter(torch.randn(8))
    net.blocks[0].up = nn.Sequential(nn.Linear(8, 3, bias=False), nn.Linear(3, 16))
    del net.blocks[1]
    net.blocks[1].up = nn.Linear(8, 6)
    net.blocks[1].down = nn.Linear(6, 8)
    net.head = nn.Linear(8, 4, bias=False)
    net.unused = None
    net.heads = 1
    return net.eval()


class Normed(nn.Module):
    """Weights that torch computes anew in every pass, in three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.second = nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.third = nn.utils.spectral_norm(nn.Linear(8, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3))
        return self.head(torch.relu(self.third(y)))


def bert(**config: int) -> nn.Module:
    """A BERT of these sizes."""
    import transformers

    made: nn.Module = transformers.BertModel(transformers.BertConfig(**config))
    return made
