"""SqueezeNet: fire modules squeeze by 1×1 and expand by 1×1 and 3×3 (Iandola 2016, 1602.07360)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lwplugin.students.convolution import channels, initialised
from lwplugin.students.options import Family, ImageOptions

# Squeezed channels, and expanded ones of each kind; a pool stands before the fires of these numbers.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_POOLED = {"1.0": (0, 3, 7), "1.1": (0, 2, 4)}
_STEM = {"1.0": (96, 7), "1.1": (64, 3)}


class SqueezeNetOptions(ImageOptions):
    """Options of `squeezenet`."""

    family: Literal["squeezenet"] = "squeezenet"
    version: Literal["1.0", "1.1"] = Field("1.1", description="1.1: 2.4 times fewer MACs, as good.")
    batch_norm: bool | None = Field(
        None,
        description="Norms after the convolutions, which the published net has not; with the small stem by default.",
    )


class Fire(nn.Module):
    """1×1 squeeze, then 1×1 and 3×3 side by side: [n, inputs, h, w] → [n, 2·expanded, h, w]."""

    def __init__(self, inputs: int, squeezed: int, expanded: int, norm: bool) -> None:
        super().__init__()
        self.squeeze = _layer(inputs, squeezed, 1, norm)
        self.point = _layer(squeezed, expanded, 1, norm)
        self.square = _layer(squeezed, expanded, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Two halves of the channels from the same squeezed ones."""
        x = self.squeeze(x)
        return torch.cat([self.point(x), self.square(x)], 1)


def _layer(
    inputs: int, outputs: int, kernel: int, norm: bool, stride: int = 1, padding: int | None = None
) -> nn.Module:
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding, bias=not norm
    )
    return nn.Sequential(conv, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU(inplace=True))


def make(options: SqueezeNetOptions) -> nn.Module:
    """1,235,496 parameters at width 1 (version 1.0: 1,248,424).

    The small stem neither strides nor pools before the first fire: 4 times smaller maps at the end.
    """
    width, small = options.width or 1.0, options.small
    norm = small if options.batch_norm is None else options.batch_norm
    wanted, kernel = _STEM[options.version]
    seen = channels(wanted * width)
    stem = (
        _layer(options.channels or 3, seen, 3, norm)
        if small
        else _layer(options.channels or 3, seen, kernel, norm, stride=2, padding=0)
    )
    layers: list[nn.Module] = []
    for position, (squeezed, expanded) in enumerate(_FIRES):
        if position in _POOLED[options.version] and not (small and position == 0):
            layers.append(nn.MaxPool2d(3, 2, padding=1) if small else nn.MaxPool2d(3, 2, ceil_mode=True))
        wide = channels(expanded * width)
        layers.append(Fire(seen, channels(squeezed * width), wide, norm))
        seen = 2 * wide
    end = [nn.Dropout(options.dropout)] if options.dropout else []
    parts = OrderedDict(
        stem=stem,
        fires=nn.Sequential(*layers),
        classifier=nn.Sequential(
            *end, nn.Conv2d(seen, options.classes or 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
    )
    return initialised(nn.Sequential(parts))


FAMILY = Family("squeezenet", SqueezeNetOptions, make, "fire modules, no linear layer (images)")
