"""Small networks written the way people write them, one for each thing a dependency graph can trip over."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(cin: int, cout: int, k: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(cout), nn.ReLU()
    )


class ResidualBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.short = nn.Conv2d(cin, cout, 1, stride, bias=False) if stride > 1 or cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.short is None else self.short(x)))


class ResNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 16), blocks: int = 2) -> None:
        super().__init__()
        self.stem = conv_bn(1, widths[0])
        layers, cin = [], widths[0]
        for i, w in enumerate(widths):
            for b in range(blocks):
                layers.append(ResidualBlock(cin, w, 2 if i and not b else 1))
                cin = w
        self.blocks = nn.ModuleList(layers)
        self.head = nn.Linear(cin, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class FlattenCnn(nn.Module):
    def __init__(self, hard: bool = False, attribute: bool = False) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(256, 32), nn.Linear(32, 10)
        self.hard, self.flat = hard, 256 if attribute else 0

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.relu(self.c2(x))
        x = F.adaptive_avg_pool2d(x, 4)
        if self.hard:
            x = x.view(-1, 256)
        elif self.flat:
            x = x.view(-1, self.flat)
        else:
            x = x.flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class MobileBlock(nn.Module):
    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.expand, self.depth = conv_bn(c, 4 * c, 1), conv_bn(4 * c, 4 * c, 3, groups=4 * c)
        self.se1, self.se2 = nn.Conv2d(4 * c, 4, 1), nn.Conv2d(4, 4 * c, 1)
        self.project = nn.Sequential(nn.Conv2d(4 * c, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.expand(x))
        gate = F.adaptive_avg_pool2d(y, 1)
        y = y * torch.sigmoid(self.se2(F.relu(self.se1(gate))))
        return x + self.project(y)


def mobile() -> nn.Module:
    return nn.Sequential(
        conv_bn(1, 8), MobileBlock(), MobileBlock(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


class Fire(nn.Module):
    def __init__(self, cin: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(cin, squeeze, 1)
        self.left, self.right = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)


def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Fire(8, 6, 8), nn.MaxPool2d(2), Fire(16, 6, 8),
        nn.Conv2d(16, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class DenseLayer(nn.Module):
    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(cin), nn.Conv2d(cin, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


def densenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), DenseLayer(8, 6), DenseLayer(14, 6), nn.AvgPool2d(2), DenseLayer(20, 6),
        nn.BatchNorm2d(26), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(26, 10),
    )  # fmt: skip


def shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleV1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 12)
        self.g1 = nn.Conv2d(12, 24, 1, groups=2)
        self.dw = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.g2 = nn.Conv2d(24, 12, 1, groups=2)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = shuffle(F.relu(self.g1(x)), 2)
        x = F.relu(x + self.g2(self.dw(y)))
        return self.head(x.mean((2, 3)))


class ShuffleV2(nn.Module):
    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.stem = conv_bn(1, c)
        h = c // 2
        self.branches = nn.ModuleList(
            nn.Sequential(conv_bn(h, h, 1), conv_bn(h, h, 3, groups=h)) for _ in range(2)
        )
        self.head = nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            a, b = x.chunk(2, 1)
            x = shuffle(torch.cat([a, branch(b)], 1), 2)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.mid = conv_bn(1, 8), conv_bn(8, 12), conv_bn(12, 16)
        self.up2, self.u2 = nn.ConvTranspose2d(16, 12, 2, 2), conv_bn(24, 12)
        self.u1, self.out = conv_bn(20, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        c = self.mid(F.max_pool2d(b, 2))
        y = self.u2(torch.cat([self.up2(c), b], 1))
        y = self.u1(torch.cat([F.interpolate(y, scale_factor=2, mode="nearest"), a], 1))
        return self.out(y)


class GroupNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.c2, self.n2 = nn.Conv2d(16, 12, 3, padding=1), nn.InstanceNorm2d(12, affine=True)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.n1(self.c1(x)))
        return self.head(F.silu(self.n2(self.c2(x))).amax((2, 3)))


class Attention(nn.Module):
    def __init__(self, dim: int = 24, heads: int = 4, fused: bool = True, einsum: bool = False) -> None:
        super().__init__()
        self.heads, self.head_dim, self.fused, self.einsum = heads, dim // heads, fused, einsum
        if fused:
            self.qkv = nn.Linear(dim, 3 * dim)
        else:
            self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if self.fused:
            q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (
                f(x).view(b, n, self.heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
            )
        if self.einsum:
            a = torch.einsum("bhid,bhjd->bhij", q, k) / self.head_dim**0.5
            y = torch.einsum("bhij,bhjd->bhid", a.softmax(-1), v)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class VitBlock(nn.Module):
    def __init__(self, dim: int = 24, **kind: bool) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, **kind)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.n1(x))
        return x + self.fc2(F.gelu(self.fc1(self.n2(x))))


class Vit(nn.Module):
    def __init__(self, **kind: bool) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 24, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 5, 24))
        self.blocks = nn.ModuleList(VitBlock(24, **kind) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class MhaNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x[:, 0])).mean(1))


class LstmNet(nn.Module):
    def __init__(
        self, layers: int = 1, bidirectional: bool = False, kind: type[nn.RNNBase] = nn.LSTM
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.rnn = kind(12, 10, num_layers=layers, bidirectional=bidirectional, batch_first=True)
        self.head = nn.Linear(20 if bidirectional else 10, 5)

    def forward(self, ids: Tensor) -> Tensor:
        y, _ = self.rnn(self.embed(ids))
        return self.head(y[:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mid = nn.Embedding(20, 12), nn.Linear(12, 16)
        self.back, self.decode = nn.Linear(16, 12), nn.Linear(12, 20, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.decode(self.back(F.gelu(self.mid(self.embed(ids)))))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = (
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.twice(x))
        x = F.relu(self.twice(x))
        return self.head(x.mean((2, 3)))


class ChunkConcat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(6, 10, 1), nn.Conv2d(6, 6, 1)
        self.glu, self.head = nn.Conv2d(16, 24, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.stem(x)).chunk(2, 1)
        y = torch.cat([self.a(left), self.b(right)], 1)
        y = F.glu(self.glu(y), 1)
        return self.head(y.mean((2, 3)))


class ShapeControl(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c1(x))
        if x.shape[-1] > 4:
            x = F.relu(self.c2(x))
        return self.head(torch.cat([x.reshape(x.shape[0], x.shape[1], -1)], 2).mean(-1))


class HiddenTrap(nn.Module):
    """Keeps every shape after a cut and changes every value: reads a fixed slice of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.head = nn.Conv2d(1, 12, 3), nn.Conv2d(4, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.c2(F.relu(self.c1(x))[:, 2:6])).mean((2, 3)))


class Unread(nn.Module):
    """A head whose answer nobody reads in evaluation, and a mean that forward keeps; slopes of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.slopes, self.c2 = nn.Conv2d(1, 12, 3), nn.PReLU(12), nn.Conv2d(12, 8, 3)
        self.beside, self.head = nn.Linear(8, 3), nn.Linear(8, 10)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = F.relu(self.c2(self.slopes(self.c1(x)))).mean((2, 3))
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        beside = self.beside(x)
        return self.head(x), beside if self.training else None


class PackedTexts(nn.Module):
    """A recurrent layer over texts of several lengths without their padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = (
            nn.Embedding(20, 12),
            nn.LSTM(12, 10, batch_first=True),
            nn.Linear(10, 5),
        )

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids > 0).sum(1).clamp_min(1)
        texts = nn.utils.rnn.pack_padded_sequence(self.embed(ids), lengths, True, enforce_sorted=False)
        return self.head(self.rnn(texts)[1][0][-1])


def image() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def words() -> Tensor:
    return torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))


# name → (model, inputs, layers whose units must be prunable)
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], tuple[str, ...]]] = {
    "resnet": (ResNet, image, ("stem.0", "blocks.0.conv1", "blocks.2.conv1", "blocks.2.short")),
    "flatten": (FlattenCnn, image, ("c1", "c2", "fc1")),
    "flatten_attribute": (lambda: FlattenCnn(attribute=True), image, ("c1", "c2", "fc1")),
    "flatten_hard_coded": (lambda: FlattenCnn(hard=True), image, ("c1", "fc1")),
    "depthwise_squeeze": (mobile, image, ("0.0", "1.expand.0", "1.se1")),
    "squeezenet": (squeezenet, image, ("0", "2.squeeze", "2.left", "2.right")),
    "densenet": (densenet, image, ("0", "1.conv", "4.conv")),
    "shuffle_v1": (ShuffleV1, image, ("stem.0", "g1")),
    "shuffle_v2": (ShuffleV2, image, ("stem.0", "branches.0.0.0")),
    "unet": (UNet, image, ("d1.0", "d2.0", "mid.0", "up2", "u1.0")),
    "group_norm": (GroupNormNet, image, ("c1", "c2")),
    "vit_fused": (Vit, image, ("blocks.0.attn.qkv", "blocks.1.fc1")),
    "vit_separate": (lambda: Vit(fused=False), image, ("blocks.0.attn.q", "blocks.1.fc1")),
    "vit_einsum": (lambda: Vit(einsum=True), image, ("blocks.0.attn.qkv", "blocks.1.fc1")),
    "multihead_attention": (MhaNet, image, ("layer.linear1",)),
    "lstm": (LstmNet, words, ("rnn", "embed")),
    "lstm_deep_bidirectional": (lambda: LstmNet(2, True), words, ("rnn",)),
    "gru": (lambda: LstmNet(1, False, nn.GRU), words, ("rnn",)),
    "tied": (Tied, words, ("mid", "back")),
    "shared": (Shared, image, ("stem", "twice")),
    "chunk_concat": (ChunkConcat, image, ("stem", "a", "b", "glu")),
    "shape_control": (ShapeControl, image, ("c1", "c2")),
    "unread": (Unread, image, ("c1", "c2")),
    "packed_texts": (PackedTexts, words, ("rnn", "embed")),
    "hidden_trap": (HiddenTrap, image, ("c2",)),
}
