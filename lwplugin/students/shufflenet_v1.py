"""ShuffleNetV1: grouped pointwise convolutions with a channel shuffle between (Zhang 2017, 1707.01083)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lwplugin.students.convolution import channels, classifier, convolution, initialised
from lwplugin.students.options import Family, ImageOptions
from lwplugin.students.shuffle import shuffled

_FIRST = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
_REPEATS = (4, 8, 4)


class ShuffleNetV1Options(ImageOptions):
    """Options of `shufflenet_v1`."""

    family: Literal["shufflenet_v1"] = "shufflenet_v1"
    groups: Literal[1, 2, 3, 4, 8] = Field(3, description="Groups of the pointwise convolutions.")


class Unit(nn.Module):
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1; added to the input, or beside its halved map."""

    def __init__(
        self, inputs: int, outputs: int, groups: int, *, first: bool, stride: int, grows: bool
    ) -> None:
        super().__init__()
        middle = outputs // 4
        self.groups = groups
        self.grows = grows
        self.squeeze = convolution(inputs, middle, 1, groups=1 if first else groups)
        self.filter = convolution(middle, middle, 3, stride, groups=middle, relu=None)
        self.expand = convolution(middle, outputs - inputs if grows else outputs, 1, groups=groups, relu=None)
        self.short = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] → [n, outputs, h/stride, w/stride]."""
        y = self.expand(self.filter(shuffled(self.squeeze(x), self.groups)))
        beside = self.short(x)
        return self.relu(torch.cat([y, beside], 1) if self.grows else y + beside)


def make(options: ShuffleNetV1Options) -> nn.Module:
    """1,865,728 parameters at width 1 with 3 groups. The small stem neither strides nor pools."""
    width, groups = options.width or 1.0, options.groups
    seen = channels(24 * width, groups)
    stem = [convolution(options.channels or 3, seen, stride=1 if options.small else 2)]
    pool = [] if options.small else [nn.MaxPool2d(3, 2, 1)]
    units: list[nn.Module] = []
    for stage, repeats in enumerate(_REPEATS):
        wide = channels(_FIRST[groups] * width, 4 * groups) * 2**stage
        for repeat in range(repeats):
            grows, first = repeat == 0, stage == repeat == 0
            units.append(Unit(seen, wide, groups, first=first, stride=2 if grows else 1, grows=grows))
            seen = wide
    parts = OrderedDict(
        stem=nn.Sequential(*stem, *pool),
        units=nn.Sequential(*units),
        classifier=classifier(seen, options.classes or 1000, options.dropout),
    )
    return initialised(nn.Sequential(parts))


FAMILY = Family(
    "shufflenet_v1", ShuffleNetV1Options, make, "grouped pointwise convolutions and channel shuffles (images)"
)
