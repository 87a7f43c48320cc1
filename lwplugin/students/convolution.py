"""The pieces that all convolutional students are made of."""

from __future__ import annotations

from torch import nn


def channels(wanted: float, multiple: int = 8) -> int:
    """The multiple nearest to ``wanted``, at least one of them and never below nine tenths of it.

    Does not fall when ``wanted`` rises.
    """
    found = max(multiple, int(wanted + multiple / 2) // multiple * multiple)
    return found + multiple if found < 0.9 * wanted else found


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    *,
    relu: type | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution of the same padding without bias, batch norm, and the activation unless it is None."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([relu(inplace=True)] if relu else []))


def classifier(features: int, classes: int, dropout: float) -> nn.Sequential:
    """Mean over the map, dropout where asked, one linear layer: [n, features, h, w] → [n, classes]."""
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*pooled, nn.Linear(features, classes))


def initialised(net: nn.Module) -> nn.Module:
    """The net with weights as the papers' implementations draw them: He for convolutions, small for the rest."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
    return net
