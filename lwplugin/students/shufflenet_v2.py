"""ShuffleNetV2: half of the channels pass by, then a shuffle (Ma 2018, 1807.11164)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.students.convolution import channels, classifier, convolution, initialised
from lwplugin.students.options import Family, ImageOptions
from lwplugin.students.shuffle import shuffled

# Channels of the first stage and of the last layer at the published widths; straight lines between.
_WIDTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
_FIRST = (0, 48, 116, 176, 244)
_LAST = (0, 1024, 1024, 1024, 2048)
_REPEATS = (4, 8, 4)


class ShuffleNetV2Options(ImageOptions):
    """Options of `shufflenet_v2`."""

    family: Literal["shufflenet_v2"] = "shufflenet_v2"


class Unit(nn.Module):
    """One half of the channels is worked on, the other passes; where the map halves both are, from all."""

    def __init__(self, inputs: int, outputs: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        half, stride = outputs // 2, 2 if halves else 1
        self.passing = (
            nn.Sequential(
                convolution(inputs, inputs, 3, 2, groups=inputs, relu=None), convolution(inputs, half, 1)
            )
            if halves
            else nn.Identity()
        )
        self.worked = nn.Sequential(
            convolution(inputs if halves else half, half, 1),
            convolution(half, half, 3, stride, groups=half, relu=None),
            convolution(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] → [n, outputs, h, w], or half the size."""
        left, right = (x, x) if self.halves else x.chunk(2, dim=1)
        return shuffled(torch.cat([self.passing(left), self.worked(right)], 1), 2)


def make(options: ShuffleNetV2Options) -> nn.Module:
    """2,278,604 parameters at width 1 (0.5: 1,366,792; 1.5: 3,503,624; 2: 7,393,996).

    Between and beyond the published widths the channels follow straight lines. The small stem neither strides
    nor pools.
    """
    width = options.width or 1.0
    seen = channels(24 * min(width / 0.5, 1.0), 4)
    stem = [convolution(options.channels or 3, seen, stride=1 if options.small else 2)]
    pool = [] if options.small else [nn.MaxPool2d(3, 2, 1)]
    first, last = channels(_line(width, _FIRST), 4), channels(_line(width, _LAST), 8)
    units: list[nn.Module] = []
    for stage, repeats in enumerate(_REPEATS):
        wide = first * 2**stage
        for repeat in range(repeats):
            units.append(Unit(seen, wide, halves=repeat == 0))
            seen = wide
    parts = OrderedDict(
        stem=nn.Sequential(*stem, *pool),
        units=nn.Sequential(*units),
        head=convolution(seen, last, 1),
        classifier=classifier(last, options.classes or 1000, options.dropout),
    )
    return initialised(nn.Sequential(parts))


def _line(width: float, known: tuple[int, ...]) -> float:
    return float(np.interp(width, _WIDTHS, known)) if width <= 2 else known[-1] * width / 2


FAMILY = Family("shufflenet_v2", ShuffleNetV2Options, make, "channel split and shuffle (images)")
